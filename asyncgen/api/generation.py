"""Generating from Python: the same session, directory, lock and promises as `asyncgen generate`.

A user's own async function (vLLM offline, another API, a fake in a test) becomes a completer here; retries and limits
are left to the pool, as with every completer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import orjson

from asyncgen.api.jobs import LoadedJob, loaded_job
from asyncgen.api.loop import run_in_thread
from asyncgen.api.observer import LibraryObserver, OnProgress
from asyncgen.api.runs import Run
from asyncgen.generate.engine import GenerateOptions
from asyncgen.generate.http.completer import Answer, AttemptError, ErrorClass
from asyncgen.generate.http.reply import read_reply
from asyncgen.generate.observer import Interrupt
from asyncgen.generate.session import RUNS, OnlineEngine, generate_opened
from asyncgen.json_text import decode_json
from asyncgen.providers.endpoint import Endpoint
from asyncgen.run.jsonl import follow_lines
from asyncgen.run.records import Record, Usage, decode_record
from asyncgen.terminal import one_line

if TYPE_CHECKING:
    import os

UserCompleter = Callable[[Mapping[str, Any]], Awaitable[str | Mapping[str, Any]]]
_MESSAGE_WIDTH = 500


class FunctionCompleter:
    """A completer that calls a function instead of a server.

    Args:
        function: takes the request body as in the API; returns the answer's text, or a whole chat completion.
    """

    def __init__(self, function: UserCompleter) -> None:
        self._function = function

    async def complete(self, body: bytes) -> Answer | AttemptError:
        """Call the function once; an exception of the function is an error of the attempt, which is retried."""
        request = decode_json(body)
        began_s = time.monotonic()
        try:
            answer = await self._function(request)
        except Exception as error:  # noqa: BLE001 - it is the user's, and fails the row, not the run
            message = one_line(f"{type(error).__name__}: {error}", _MESSAGE_WIDTH)
            return AttemptError(kind=ErrorClass.RETRY, type="completer", message=message)
        latency_s = time.monotonic() - began_s
        if isinstance(answer, str):
            return Answer(answer, "stop", str(request.get("model", "")), Usage(), latency_s=latency_s)
        return read_reply(200, {}, orjson.dumps(answer), latency_s=latency_s)


_TICK_S = 0.1
_OPTIONS = (
    "concurrency", "rpm", "tpm", "max_cost", "limit", "retry_failed", "retry_rejected", "fsync_each", "batch",
)  # fmt: skip


class GenerateArguments(TypedDict, total=False):
    """Keyword arguments of the generating functions, by the names of the command line's flags.

    Attributes:
        out: the run directory; left out: `runs/<job name>`.
        concurrency: maximum number of requests in flight.
        rpm: requests a minute.
        tpm: tokens a minute.
        max_cost: USD, over all invocations of the run.
        limit: send at most so many requests this time.
        retry_failed: ask again for rows that failed.
        retry_rejected: ask again for rows whose answers `prepare` rejected.
        fsync_each: make each answer safe from a power loss at once.
        batch: through the Batch API.
        yes: consent to what the command line would ask about: costs above 1 USD, rows left behind.
        on_progress: called twice a second with a `ProgressSnapshot`.
        completer: your own async function in place of an API; see `generate`.
    """

    out: str | os.PathLike[str] | None
    concurrency: int | None
    rpm: float | None
    tpm: float | None
    max_cost: float | None
    limit: int | None
    retry_failed: bool
    retry_rejected: bool
    fsync_each: bool
    batch: bool
    yes: bool
    on_progress: OnProgress | None
    completer: UserCompleter | None


def generate(job: LoadedJob | str | os.PathLike[str], **arguments: Unpack[GenerateArguments]) -> Run:
    """Ask for every row of a job that is not there yet, and return the run.

    Works in a script, inside a running event loop and in a notebook. Ctrl-C finishes what is in flight and raises
    KeyboardInterrupt; the same call goes on where it stopped.

    Args:
        job: a loaded job, or the path of a job file.
        **arguments: see `GenerateArguments`. `completer` is an async function that takes the request body as the API
            has it (a mapping with `model`, `messages` and parameters) and returns the answer: its text, or a whole
            chat completion as a mapping. What it raises fails the row, which is tried again.

    Raises:
        JobFileError: the job file has mistakes.
        UsageError: consent is needed (code `needs_yes`), or an argument cannot be.
        AuthError, QuotaError, DiskError, RunInUseError: what ended the run; what was paid for is kept.

    Example:
        >>> async def shout(request):
        ...     return request["messages"][-1]["content"].upper()
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = generate(load_job(provider="local"), out=folder + "/run", completer=shout, limit=3)
        ...     len(run)
        3
    """
    return run_in_thread(lambda interrupt: _generate(loaded_job(job), arguments, interrupt))


async def agenerate(job: LoadedJob | str | os.PathLike[str], **arguments: Unpack[GenerateArguments]) -> Run:
    """`generate` for asyncio, on the running loop.

    A cancelled task finishes what is in flight before it ends; cancelled twice, it drops it.

    Args:
        job: a loaded job, or the path of a job file.
        **arguments: as for `generate`.

    Raises:
        AsyncgenError: as `generate`.

    Example:
        >>> run = await agenerate("campaign.toml", max_cost=5.0)  # doctest: +SKIP
    """
    interrupt = Interrupt()
    work = asyncio.ensure_future(_generate(loaded_job(job), arguments, interrupt))
    cancelled: asyncio.CancelledError | None = None
    for event in (interrupt.stop, interrupt.abandon):
        try:
            run = await asyncio.shield(work)
        except asyncio.CancelledError as error:
            if work.done():
                raise
            cancelled = cancelled or error
            event.set()
        else:
            if cancelled is not None:
                raise cancelled
            return run
    await asyncio.wait([work])
    raise cancelled or asyncio.CancelledError


async def stream(
    job: LoadedJob | str | os.PathLike[str], **arguments: Unpack[GenerateArguments]
) -> AsyncIterator[Record]:
    """Generate, and yield every record of the job as it is settled: those that are there first, then new ones.

    Records come from the file, so a slow reader holds nothing up. Leaving the loop early finishes what is in flight.

    Args:
        job: a loaded job, or the path of a job file.
        **arguments: as for `generate`.

    Raises:
        AsyncgenError: as `generate`, after the last record.

    Example:
        >>> async for record in stream("campaign.toml"):  # doctest: +SKIP
        ...     print(record.variables, record.completion)
    """
    loaded = loaded_job(job)
    interrupt = Interrupt()
    work = asyncio.ensure_future(_generate(loaded, arguments, interrupt))
    path = _directory(loaded, arguments) / "records.jsonl"
    offset = 0
    try:
        while True:
            ended = work.done()
            offset, lines = follow_lines(path, offset)
            for line in lines:
                record = decode_record(line)
                if loaded.opened.grid.key_of(record.variables, record.repeat) is not None:
                    yield record
            if ended and not lines:
                break
            if not lines:
                await asyncio.wait([work], timeout=_TICK_S)
        await work
    finally:
        interrupt.stop.set()
        with suppress(BaseException):
            await asyncio.shield(work)


def preview(
    job: LoadedJob | str | os.PathLike[str], *, n: int = 3, **arguments: Unpack[GenerateArguments]
) -> list[Record]:
    """Send a few requests from different combinations, and return their records; they are kept as rows of the run.

    Args:
        job: a loaded job, or the path of a job file.
        n: how many.
        **arguments: as for `generate`.

    Raises:
        AsyncgenError: as `generate`.

    Example:
        >>> for record in preview("campaign.toml", n=2):  # doctest: +SKIP
        ...     print(record.prompt, record.completion)
    """
    loaded = loaded_job(job)
    before = {record.key for record in _records(_directory(loaded, arguments))}
    arguments["limit"] = n
    run = generate(loaded, **arguments)
    return [record for record in run.records() if record.key not in before]


def _records(path: Path) -> list[Record]:
    return list(Run(path).records(stale=True)) if (path / "records.jsonl").exists() else []


def _directory(job: LoadedJob, arguments: Mapping[str, Any]) -> Path:
    out = arguments.get("out")
    return Path(out) if out is not None else RUNS / job.name


async def _generate(job: LoadedJob, arguments: Mapping[str, Any], interrupt: Interrupt) -> Run:
    observer = LibraryObserver(
        yes=arguments.get("yes", False), on_progress=arguments.get("on_progress"), interrupt=interrupt
    )
    given = {name: arguments[name] for name in _OPTIONS if name in arguments}
    options = GenerateOptions(where=job.where, out=_directory(job, arguments), **given)
    user = arguments.get("completer")
    if user is None:
        done = await generate_opened(job.opened, job.generation, options, observer)
    else:
        done = await generate_opened(
            job.opened, job.generation, options, observer,
            engine=OnlineEngine(FunctionCompleter(user)), endpoint=_endpoint_of(user, job),
        )  # fmt: skip
    if done.outcome.error is not None:
        raise done.outcome.error
    return Run(done.run)


def _endpoint_of(user: UserCompleter, job: LoadedJob) -> Endpoint:
    """Who answers: the function, by its name, which the run keeps as it keeps a server's address."""
    name = f"{getattr(user, '__module__', '')}.{getattr(user, '__qualname__', type(user).__qualname__)}"
    return Endpoint(job.generation.profile, f"python:{name}", None, job.model, "your own function")
