"""The server of the page: listens on this machine only, on the next free port, and answers the page's requests as JSON.

Answers come from `runs`, `overview`, `evaluations` and `playground`; access is checked before, by `access`. Files are
read in threads, so that the event loop can serve streams.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from aiohttp import web

from asyncgen import __version__
from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.local_http import json_response, listen
from asyncgen.terminal import counted
from asyncgen.view.access import HOST, PageAccess, signed
from asyncgen.view.evaluations import Vote, add_vote, evaluation_names, read_evaluation, shown, winner_of
from asyncgen.view.overview import axes, counters, heat_map, overview, training_of
from asyncgen.view.playground import OpenEndpoint, Playground, PlaygroundQuestion, offered
from asyncgen.view.query import Query
from asyncgen.view.runs import detail, previews, similar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aiohttp.typedefs import Handler

    from asyncgen.view.runs import Runs, RunView


STATIC = Path(__file__).parent / "static"
PORT = 7575
_PORTS_TRIED = 20
_CLOSING_S = 1.0
_LARGEST_BODY = 1 << 20
_TICK_S = 1.0
_BEAT_S = 15.0
_WINDOW = 500
_OWN_PARAMETERS = frozenset({"offset", "count", "row"})


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


_encode = msgspec.json.Encoder().encode


class ReviewRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rows of a decision: one by its key, or all of a query.

    Attributes:
        expected: number of rows that the page showed for the query; if it has changed, nothing is written.
    """

    action: Literal["reject", "restore", "seen"]
    key: str | None = None
    query: dict[str, list[str]] | None = None
    expected: int | None = None


class VoteRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A vote: which of a row's answers is better."""

    row: str
    choice: str
    blind: bool = False


class Routes:
    """The routes of the page.

    Args:
        runs: the runs to show.
        access: checks the token of writing requests.
        playground: answers prompts.
        stopping: set when the server ends; streams end with it.
    """

    def __init__(self, runs: Runs, access: PageAccess, playground: Playground, stopping: asyncio.Event) -> None:
        self._runs = runs
        self._access = access
        self._playground = playground
        self._stopping = stopping

    def table(self) -> list[web.RouteDef]:
        """All routes."""
        run = "/api/runs/{run}"
        return [
            web.get("/api/session", self._session),
            web.get("/api/runs", self._list),
            web.get(f"{run}/counters", self._counters),
            web.get(f"{run}/stream", self._stream),
            web.get(f"{run}/overview", self._read(lambda view, _: overview(view))),
            web.get(f"{run}/heat", self._read(_heat)),
            web.get(f"{run}/records", self._read(_records)),
            web.get(f"{run}/records/{{key}}", self._read(_detail)),
            web.get(f"{run}/records/{{key}}/similar", self._read(_similar)),
            web.post(f"{run}/review", self._review),
            web.post(f"{run}/undo", self._undo),
            web.get(f"{run}/training", self._read(lambda view, _: training_of(view.directory, view.state))),
            web.get(f"{run}/evaluations", self._read(lambda view, _: {"names": evaluation_names(view.directory.path)})),
            web.get(f"{run}/evaluations/{{evaluation}}", self._read(_evaluation)),
            web.post(f"{run}/evaluations/{{evaluation}}/votes", self._vote),
            web.get(f"{run}/playground", self._read(_offer)),
            web.post(f"{run}/playground", self._ask),
        ]

    async def _session(self, _: web.Request) -> web.Response:
        return json_response(
            {"token": self._access.writing_token, "first": self._runs.first, "version": __version__, "now": time.time()}
        )

    async def _list(self, _: web.Request) -> web.Response:
        return json_response({"runs": await asyncio.to_thread(listed, self._runs)})

    def _view(self, request: web.Request) -> RunView:
        return self._runs.view(request.match_info["run"])

    def _read(self, answer: Callable[[RunView, web.Request], Any]) -> Callable[[web.Request], Awaitable[web.Response]]:
        """A route that reads a run in a thread, in its turn."""

        def in_turn(view: RunView, request: web.Request) -> Any:
            with view.in_turn():
                return answer(view, request)

        async def handle(request: web.Request) -> web.Response:
            return json_response(await asyncio.to_thread(in_turn, self._view(request), request))

        return handle

    async def _counters(self, request: web.Request) -> web.Response:
        found = _encode(await asyncio.to_thread(_counted, self._view(request)))
        tag = f'"{blake2b(found, digest_size=8).hexdigest()}"'
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers={"ETag": tag})
        return web.Response(body=found, headers={"Content-Type": "application/json", "ETag": tag})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Counters whenever they change, with the offset up to which the files were read as the event's id."""
        view = self._view(request)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        last, sent_at = b"", 0.0
        with suppress(ConnectionError):
            async for found in _changes(view, self._stopping):
                identifier = f"{found['version']}-{found['offset']}"
                content = _encode(found)
                if content != last:
                    await response.write(b"id: %b\ndata: %b\n\n" % (identifier.encode(), content))
                    last, sent_at = content, time.monotonic()
                elif time.monotonic() - sent_at > _BEAT_S:
                    await response.write(b": still here\n\n")
                    sent_at = time.monotonic()
        return response

    async def _review(self, request: web.Request) -> web.Response:
        wanted = await _body(request, ReviewRequest)
        identifier = secrets.token_hex(8)

        def review(view: RunView) -> dict[str, Any]:
            with view.in_turn():
                count = view.review(wanted.action, _chosen(view, wanted), identifier=identifier)
                return {"id": identifier, "count": count, "counters": counters(view)}

        return json_response(await asyncio.to_thread(review, self._view(request)))

    async def _undo(self, request: web.Request) -> web.Response:
        identifier = secrets.token_hex(8)

        def undo(view: RunView) -> dict[str, Any]:
            with view.in_turn():
                return {"undone": view.undo(identifier), "counters": counters(view)}

        return json_response(await asyncio.to_thread(undo, self._view(request)))

    async def _vote(self, request: web.Request) -> web.Response:
        wanted = await _body(request, VoteRequest)
        name = request.match_info["evaluation"]

        def vote(view: RunView) -> dict[str, Any]:
            with view.in_turn():
                path = view.directory.path
                found = read_evaluation(path, name)
                winner = winner_of(found, wanted.row, wanted.choice, blind=wanted.blind)
                add_vote(path, name, Vote(row=wanted.row, winner=winner, created=int(time.time()), blind=wanted.blind))
                return shown(read_evaluation(path, name), blind=wanted.blind)

        return json_response(await asyncio.to_thread(vote, self._view(request)))

    async def _ask(self, request: web.Request) -> web.StreamResponse:
        question = await _body(request, PlaygroundQuestion)
        view = self._view(request)
        state = await asyncio.to_thread(lambda: view.state)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        async for piece in self._playground.ask(view.directory, state, question):
            await response.write(_encode(piece) + b"\n")
        return response


def listed(runs: Runs) -> list[dict[str, Any]]:
    """The runs for the list; for an unreadable one, the reason."""
    return [_listed(runs, name, changed) for name, _, changed in runs.listed()]


def _listed(runs: Runs, name: str, changed: float) -> dict[str, Any]:
    view = runs.view(name)
    try:
        state, live = view.state, view.live
    except (AsyncgenError, OSError) as error:
        return {"name": name, "changed": changed, "problem": str(error)}
    return {
        "name": name,
        "changed": changed,
        "job": state.job.name,
        "model": state.job.model,
        "requests": state.job.requests,
        "records": live.done if live else max(state.spend.records - state.job.stale, 0),
        "cost_usd": None if state.spend.unpriced and not state.spend.cost_usd else state.spend.cost_usd,
        "live": live is not None,
        "dataset": sum(file.samples for file in state.dataset.files) if state.dataset else None,
        "tuned_model": next((job.tuned_model for job in reversed(state.finetuning) if job.tuned_model), None),
    }


async def _changes(view: RunView, stopping: asyncio.Event) -> AsyncIterator[dict[str, Any]]:
    """Yield the counters at intervals, at once while there is more to read, until the server ends."""
    while not stopping.is_set():
        found = await asyncio.to_thread(_counted, view)
        yield found
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), 0.05 if found["reading"] else _TICK_S)


def _counted(view: RunView) -> dict[str, Any]:
    with view.in_turn():
        return counters(view)


def _parameters(request: web.Request) -> dict[str, list[str]]:
    return {name: request.query.getall(name) for name in request.query if name not in _OWN_PARAMETERS}


def _heat(view: RunView, request: web.Request) -> dict[str, Any]:
    names = [axis["name"] for axis in axes(view)]
    if not names:
        return {"x": None, "y": None, "cells": []}
    x, y = request.query.get("x") or names[0], request.query.get("y")
    if x not in names or (y and y not in names):
        raise UsageError("there is no such axis", help_text=f"they are {', '.join(names)}")
    return heat_map(view, x, y or None)


def _records(view: RunView, request: web.Request) -> dict[str, Any]:
    found = view.find(Query.of(_parameters(request)))
    offset, count = _number(request, "offset"), min(_number(request, "count") or _WINDOW, _WINDOW)
    row = request.query.get("row")
    return {
        "version": view.index.version,
        "reading": view.index.is_behind,
        "total": len(found.places),
        "offset": offset,
        "rows": previews(view, list(found.places[offset : offset + count])),
        "facets": found.facets,
        "truncated": found.truncated,
        "position": _position(view, found.places, row) if row else None,
    }


def _position(view: RunView, places: Any, key: str) -> int | None:
    place = view.index.place_of(key)
    try:
        return None if place is None else list(places).index(place)
    except ValueError:
        return None


def _number(request: web.Request, name: str) -> int:
    text = request.query.get(name, "0")
    if not text.isdecimal() or len(text) > 12:  # noqa: PLR2004 - more rows than any run has
        raise UsageError(f"{name} must be a number")
    return int(text)


def _place(view: RunView, key: str) -> int:
    place = view.index.place_of(key)
    if place is None:
        raise UsageError("the run has no such row, or no longer has it", code="no_row")
    return place


def _detail(view: RunView, request: web.Request) -> dict[str, Any]:
    return detail(view, _place(view, request.match_info["key"]))


def _similar(view: RunView, request: web.Request) -> dict[str, Any]:
    return {"rows": similar(view, _place(view, request.match_info["key"]))}


def _evaluation(view: RunView, request: web.Request) -> dict[str, Any]:
    found = read_evaluation(view.directory.path, request.match_info["evaluation"])
    return shown(found, blind=request.query.get("blind") == "1")


def _offer(view: RunView, _: web.Request) -> dict[str, Any]:
    state, job = view.state, view.job
    dataset = state.dataset
    return {
        "models": [{"name": choice.name, "why": choice.why} for choice in offered(state)],
        "form": None if dataset is None else {
            "format": dataset.format, "separator": dataset.separator, "ending": dataset.ending,
            "system": dataset.system,
        },
        "axes": axes(view),
        "sample": None if isinstance(job, AsyncgenError) else _sample(job.job.prompt.sample, job.grid.names),
    }  # fmt: skip


def _sample(template: str | None, names: tuple[str, ...]) -> str:
    return template or ", ".join(f"{{{name}}}" for name in names)


def _chosen(view: RunView, wanted: ReviewRequest) -> list[int]:
    if wanted.key is not None:
        return [_place(view, wanted.key)]
    if wanted.query is None:
        raise UsageError("name a row or a query")
    while view.index.is_behind:  # all rows of the filter are all of them
        view.index.read_on()
    places = list(view.find(Query.of(wanted.query)).places)
    if wanted.expected is not None and len(places) != wanted.expected:
        raise UsageError(
            f"the filter now matches {counted(len(places), 'row')}, not {wanted.expected:,}",
            help_text="check the rows, then try again",
            code="changed",
        )
    return places


async def _body(request: web.Request, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError("invalid request", cause=str(error)) from error
