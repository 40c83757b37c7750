"""The server of the page: listens on this machine only, on the next free port.

Routes are left to `routes`, access to `access`.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.local_http import json_response, listen
from asyncgen.view.access import HOST, PageAccess, signed
from asyncgen.view.playground import OpenEndpoint, Playground
from asyncgen.view.routes import Routes

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from aiohttp.typedefs import Handler

    from asyncgen.view.runs import Runs

STATIC = Path(__file__).parent / "static"
PORT = 7575
_PORTS_TRIED = 20
_CLOSING_S = 1.0
_LARGEST_BODY = 1 << 20


async def serve_view(
    runs: Runs,
    access: PageAccess,
    open_endpoint: OpenEndpoint,
    *,
    port: int | None,
    stop: asyncio.Event,
    started: Callable[[str], None],
    say: Callable[[str], None],
) -> None:
    """Serve the page until `stop` is set.

    Args:
        runs: the runs to show.
        access: who may use the page.
        open_endpoint: opens endpoints for the playground.
        port: port to listen on; 0 for any free one; None for the first free one from 7575 on.
        stop: set it to end the server.
        started: called with the launch URL once the page can be opened.
        say: called with lines for the user.

    Raises:
        AsyncgenError: there is no port to listen on.
    """
    async with Playground(open_endpoint) as playground:
        app = build_app(Routes(runs, access, playground, stop), access)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLOSING_S)
        await runner.setup()
        try:
            address = await _listened(runner, port, say)
            access.port = int(address.rpartition(":")[2])
            started(access.launch_url)
            await stop.wait()
        finally:
            await runner.cleanup()


async def _listened(runner: web.AppRunner, port: int | None, say: Callable[[str], None]) -> str:
    if port is not None:
        return await listen(runner, HOST, port)
    for tried in range(PORT, PORT + _PORTS_TRIED):
        with suppress(_PortTakenError):
            address = await _listen_or_taken(runner, tried)
            if tried != PORT:
                say(f"port {PORT} is in use; the page is on port {tried}")
            return address
    return await listen(runner, HOST, 0)


class _PortTakenError(Exception):
    """Another program listens on the port."""


async def _listen_or_taken(runner: web.AppRunner, port: int) -> str:
    try:
        return await listen(runner, HOST, port)
    except AsyncgenError as error:
        if error.code == "port_taken":
            raise _PortTakenError from error
        raise


def build_app(routes: Routes, access: PageAccess) -> web.Application:
    """Build the application. Every request passes `access` first."""
    app = web.Application(middlewares=[access.middleware(), error_middleware], client_max_size=_LARGEST_BODY)
    app.router.add_get("/", _page)
    app.router.add_routes(routes.table())
    app.router.add_static("/static/", STATIC)
    app.on_response_prepare.append(signed())
    return app


async def _page(_: web.Request) -> web.FileResponse:
    return web.FileResponse(STATIC / "index.html")


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Middleware that answers foreseen errors in the form of the command line."""
    try:
        return await handler(request)
    except AsyncgenError as error:
        status = 400 if isinstance(error, UsageError) else 500
        envelope = {"code": error.code, "what": error.what, "cause": error.cause, "help": error.help_text}
        return json_response({"error": envelope}, status=status)
    except FileNotFoundError as error:
        what = f"{error.filename} does not exist any more"
        return json_response({"error": {"code": "gone", "what": what, "cause": None, "help": None}}, status=404)
