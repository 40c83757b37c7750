"""Generating from Python: the same session, directory, lock and promises as `asyncgen generate`.

A user's own async function (vLLM offline, another API, a fake in a test) becomes a completer here; retries and limits
are left to the pool, as with every completer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from inspect import isawaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import orjson

from asyncgen.api.observer import LibraryObserver, OnProgress, run_in_thread
from asyncgen.api.runs import LoadedJob, Run, loaded_job
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


_REMEDY = "look at the function of completer="


class FunctionCompleter:
    """A completer that calls a function instead of a server. Implements `Completer`.

    Args:
        function: takes the request body as a mapping, in the API's form; returns the text of the answer, or a whole
            chat completion.
    """

    def __init__(self, function: UserCompleter) -> None:
        self._function = function

    async def complete(self, body: bytes) -> Answer | AttemptError:
        """Call the function once.

        An exception of the function becomes an error of the attempt, which the pool retries.

        Args:
            body: the request body, as JSON.

        Returns:
            The answer, or the error of the attempt.
        """
        request = decode_json(body)
        began_s = time.monotonic()
        answer: Any = None
        try:
            pending: Any = self._function(request)
            answer = await pending if isawaitable(pending) else None
        except Exception as error:  # noqa: BLE001 - it is the user's, and fails the row, not the run
            message = one_line(f"{type(error).__name__}: {error}", _MESSAGE_WIDTH)
            return AttemptError(kind=ErrorClass.RETRY, type="completer", message=message, remedy=_REMEDY)
        if not isawaitable(pending):
            message = f"the function returned {type(pending).__name__}, and is not async"
            remedy = "define it with async def"
            return AttemptError(kind=ErrorClass.STOP, type="completer", message=message, remedy=remedy)
        latency_s = time.monotonic() - began_s
        if isinstance(answer, str):
            return Answer(answer, "stop", str(request.get("model", "")), Usage(), latency_s=latency_s)
        return read_reply(200, {}, orjson.dumps(answer), latency_s=latency_s)


_TICK_S = 0.1
_OPTIONS = (
    "concurrency", "rpm", "tpm", "max_cost", "limit", "retry_failed", "retry_rejected", "fsync_each", "batch",
)  # fmt: skip


class GenerateArguments(TypedDict, total=False):
    """Keyword arguments of `generate`, `agenerate`, `stream` and `preview`. Each has the name of a command-line flag.

    Attributes:
        out: run directory; default `runs/<job name>`.
        concurrency: maximum number of requests in flight.
        rpm: maximum requests per minute.
        tpm: maximum tokens per minute.
        max_cost: maximum cost in USD, over all invocations of the run.
        limit: maximum number of requests to send in this call.
        retry_failed: ask again for rows that failed.
        retry_rejected: ask again for rows whose answers `prepare` rejected.
        fsync_each: sync each answer to disk as it arrives, not in groups.
        batch: use the provider's Batch API.
        yes: consent to everything that the command line would ask about, such as a cost above 1 USD, or going on
            when the first 20 answers all fail their checks.
        on_progress: called twice a second with a `ProgressSnapshot`.
        completer: async function to call instead of an API; see `generate`.

    Example:
        >>> limits: GenerateArguments = {"concurrency": 8, "rpm": 500}
        >>> len(generate("campaign.toml", completer=answer, **limits))
        12
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
    """Send the requests of a job that have no answer yet, and return the run.

    Works in a script, in a notebook and inside a running event loop. Ctrl-C waits for the requests in flight and raises
    KeyboardInterrupt; the same call then resumes the run.

    Args:
        job: a loaded job, or the path of a job file.
        **arguments: see `GenerateArguments`. `completer` is an async function that is called instead of an API. It gets
            the request body as a mapping (`model`, `messages`, parameters), and returns the text of the answer or a
            whole chat completion as a mapping. If it raises, the attempt fails and is retried.

    Returns:
        The run, in which every answer is on disk.

    Raises:
        JobFileError: the job file has mistakes.
        UsageError: an argument is invalid, or consent is needed (code `needs_yes`).
        AuthError: the API key is missing or wrong.
        QuotaError: the provider's quota or `max_cost` is used up.
        DiskError: an answer could not be saved.
        RunInUseError: another process writes the run.

    Example:
        >>> async def shout(request):
        ...     return request["messages"][-1]["content"].upper()
        >>> run = generate("campaign.toml", completer=shout, limit=3)
        >>> next(run.records()).completion
        'WRITE AN ADVERT FOR A BAKERY IN BONN.'
    """
    return run_in_thread(lambda interrupt: _generate(loaded_job(job), arguments, interrupt))


async def agenerate(job: LoadedJob | str | os.PathLike[str], **arguments: Unpack[GenerateArguments]) -> Run:
    """Run `generate` on the event loop of the caller.

    Cancelling the task waits for the requests in flight. Cancelling it again abandons them.

    Args:
        job: a loaded job, or the path of a job file.
        **arguments: as for `generate`.

    Returns:
        The run, in which every answer is on disk.

    Raises:
        AsyncgenError: as `generate`.

    Example:
        >>> import asyncio
        >>> run = asyncio.run(agenerate("campaign.toml", completer=answer))
        >>> len(run)
        12
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
    """Generate, and yield each record of the job: first those already on disk, then new ones as they are settled.

    Records are read from the file, so a slow consumer does not slow down the requests. Leaving the loop early waits for
    the requests in flight.

    Args:
        job: a loaded job, or the path of a job file.
        **arguments: as for `generate`.

    Yields:
        Each record of the job once.

    Raises:
        AsyncgenError: as `generate`, after the last record.

    Example:
        >>> async def cities():
        ...     return {record.variables["city"] async for record in stream("campaign.toml", completer=answer)}
        >>> import asyncio
        >>> sorted(asyncio.run(cities()))
        ['Bonn', 'Oslo', 'Rome']
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
    """Send a few requests from different combinations, and return their records.

    The answers are kept as rows of the run, so `generate` does not ask for them again.

    Args:
        job: a loaded job, or the path of a job file.
        n: how many requests to send.
        **arguments: as for `generate`; `limit` has no effect.

    Returns:
        The new records; fewer than `n` if a request failed or the run is nearly complete.

    Raises:
        AsyncgenError: as `generate`.

    Example:
        >>> [record.completion for record in preview("campaign.toml", n=2, completer=answer)]
        ['An advert.', 'An advert.']
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
    """The endpoint that the run notes for a function: its name, in place of a server's address."""
    name = f"{getattr(user, '__module__', '')}.{getattr(user, '__qualname__', type(user).__qualname__)}"
    return Endpoint(job.generation.profile, f"python:{name}", None, job.model, "your own function")
