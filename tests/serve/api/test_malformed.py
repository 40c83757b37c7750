"""Broken forms and encodings are the client's fault: 400, and nothing in the server's log."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncgen.providers.local_server import ServerInfo

FILES, CHAT = "POST /v1/files", "POST /v1/chat/completions"
FORM = "Content-Type: multipart/form-data; boundary=x"
FILE = b'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{}\n'
PURPOSE = b'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch'


def form(*parts: bytes, end: bytes = b"--x--\r\n") -> bytes:
    return b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + end


def ask(server: ServerInfo, line: str, headers: list[str], body: bytes) -> tuple[int, bytes]:
    """A request by hand: status and body of the answer."""
    host = server.base_url.removeprefix("http://").removesuffix("/v1")
    address, _, port = host.rpartition(":")
    head = [f"{line} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    with socket.create_connection((address, int(port)), timeout=20) as connection:
        connection.sendall("\r\n".join(head).encode("latin-1") + body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2]


MALFORMED = {
    "garbage": (FILES, [FORM], b"garbage"),
    "no boundary": (FILES, ["Content-Type: multipart/form-data"], form(FILE, PURPOSE)),
    "empty boundary": (FILES, ["Content-Type: multipart/form-data; boundary="], form(FILE, PURPOSE)),
    "long boundary": (FILES, [f"Content-Type: multipart/form-data; boundary={'b' * 200}"], form(FILE, PURPOSE)),
    "no end": (FILES, [FORM], form(FILE, PURPOSE, end=b"")),
    "cut": (FILES, [FORM], form(FILE, PURPOSE)[:60]),
    "nothing": (FILES, [FORM], b""),
    "NUL in a name": (FILES, [FORM], form(FILE.replace(b"a.jsonl", b"a\0"), PURPOSE)),
    "long name": (FILES, [FORM], form(FILE.replace(b"a.jsonl", b"a" * 100_000), PURPOSE)),
    "long header": (FILES, [FORM], form(b"X: " + b"a" * 1_000_000 + b"\r\n" + FILE, PURPOSE)),
    "many headers": (FILES, [FORM], form(b"X: a\r\n" * 20_000 + FILE, PURPOSE)),
    "no header": (FILES, [FORM], form(b"nonsense\r\n\r\nx", FILE, PURPOSE)),
    "two files": (FILES, [FORM], form(FILE, FILE, PURPOSE)),
    "two purposes": (FILES, [FORM], form(FILE, PURPOSE, PURPOSE)),
    "base64": (FILES, [FORM], form(b"Content-Transfer-Encoding: base64\r\n" + FILE, PURPOSE)),
    "packed part": (FILES, [FORM], form(b"Content-Encoding: gzip\r\n" + FILE, PURPOSE)),
    "nested": (FILES, [FORM], form(b"Content-Type: multipart/mixed; boundary=y\r\n\r\n--y--\r\n", FILE, PURPOSE)),
    "not gzip": (CHAT, ["Content-Encoding: gzip"], b"notgzip"),
    "not deflate": (CHAT, ["Content-Encoding: deflate"], b"notdeflate"),
    "a form that is not gzip": (FILES, [FORM, "Content-Encoding: gzip"], b"notgzip"),
    "long limit": (f"GET /v1/files?limit={'9' * 6000}", [], b""),
    "no limit": ("GET /v1/files?limit=%C2%B2", [], b""),
}


@pytest.mark.filterwarnings("ignore::aiohttp.multipart.BadContentDispositionHeader")
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_request_is_refused_and_the_server_lives_on(
    simulated_server: Callable[..., ServerInfo], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = simulated_server()
    with caplog.at_level(logging.ERROR, "asyncgen"):
        status, body = ask(server, *MALFORMED[name])
    assert status == 400
    assert b'"error"' in body
    assert not [record for record in caplog.records if record.name.startswith("asyncgen")]
    assert ask(server, FILES, [FORM], form(FILE, PURPOSE))[0] == 200
