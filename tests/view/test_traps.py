"""The two ways to the page that a strict check would bar: a link on a foreign page, and a port that is forwarded."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from asyncgen.run.reviews import read_reviews

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
MakeRun = Callable[..., Any]


@contextmanager
def page_with_link(link: str) -> Iterator[str]:
    """Another site, such as an editor in the browser whose terminal shows the link."""

    class Foreign(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = f'<!doctype html><title>terminal</title><a href="{link}">{link}</a>'.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Foreign) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_a_link_that_is_clicked_in_a_web_terminal_opens_the_page(
    make_run: MakeRun, serve_page: Any, browser: Browser
) -> None:
    served = serve_page(make_run(rows=3))
    page = browser.new_page()
    with page_with_link(served.link) as foreign:
        page.goto(foreign)
        page.get_by_role("link").click()
        page.get_by_role("heading", name="adverts").wait_for()
        assert page.url.startswith(served.origin)
        page.goto(foreign)
        page.evaluate("link => { document.querySelector('a').href = link }", served.origin + "/")
        page.get_by_role("link").click()  # any other address of the page is none to be linked to
        page.get_by_text("Pages of other sites may not use this server.").wait_for()
    page.close()


@contextmanager
def forwarded(listener: socket.socket, port: int) -> Iterator[None]:
    """What comes to the listener goes to the port, as `ssh -L` does it."""

    def pump(source: socket.socket, target: socket.socket) -> None:
        with source, target:
            try:
                while data := source.recv(65536):
                    target.sendall(data)
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", port))
            for pair in ((near, far), (far, near)):
                thread = threading.Thread(target=pump, args=[each.dup() for each in pair], daemon=True)
                thread.start()
            near.close()
            far.close()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_page_behind_a_forwarded_port_works_whole_where_the_browser_sees_it(
    make_run: MakeRun, serve_page: Any, open_page: Callable[..., Page]
) -> None:
    run = make_run(rows=3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        seen_at = f"http://localhost:{listener.getsockname()[1]}"
        served = serve_page(run, seen_at=seen_at)
        assert served.link.startswith(seen_at)
        with forwarded(listener, served.port):
            page = open_page(served.link)
            page.evaluate("location.hash = '#/adverts/records'")
            page.get_by_role("button", name="Reject all 3").click()
            page.get_by_role("checkbox", name="rejected 3").wait_for()
            page.context.close()
    assert len(read_reviews(run.path).rejected) == 3
