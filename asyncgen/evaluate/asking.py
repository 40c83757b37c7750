"""Get the answers of all contestants: plan the cost, ask for consent, generate.

Adds up the cost of all contestants before anything is bought, and shares the budget among them. The answers of each
contestant are a run of their own with its own journal: an interrupted evaluation is continued by the same call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from asyncgen.errors import QuotaError
from asyncgen.evaluate.contestants import ReadyContestant
from asyncgen.generate.engine import Engine, EngineResult, GenerateOptions, Session
from asyncgen.generate.http.client import COMPLETIONS, open_completer
from asyncgen.generate.plan.request_tokens import Span
from asyncgen.generate.pool.pool import DEFAULT_CONCURRENCY
from asyncgen.generate.session import OnlineEngine, generate_opened
from asyncgen.generate.spending import consent_to_cost, spending_of
from asyncgen.json_text import decode_json
from asyncgen.providers.choose import named_address
from asyncgen.providers.local_server import local_server
from asyncgen.providers.profiles import LOCAL
from asyncgen.run.directory import STATE_NAME, RunDirectory
from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import decode_record
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.generate.http.completer import Answer, AttemptError, Completer
    from asyncgen.generate.observer import Observer

_INTERRUPTED = 130
EngineOf = Callable[[ReadyContestant], Engine]


@dataclass(frozen=True, slots=True, kw_only=True)
class AskOptions:
    """Options that all contestants share.

    Attributes:
        max_cost: maximum USD, over all contestants and all invocations; None for no limit.
        concurrency: maximum requests in flight; None for the default.
        rpm: maximum requests per minute; None for no limit.
        tpm: maximum tokens per minute; None for no limit.
        retry_failed: ask again for rows that failed.
    """

    max_cost: float | None = None
    concurrency: int | None = None
    rpm: float | None = None
    tpm: float | None = None
    retry_failed: bool = False


@dataclass(frozen=True, slots=True)
class PlannedContestant:
    """The requests that a contestant still needs.

    Attributes:
        entry: the contestant.
        left: rows without an answer.
        cost_usd: cost of these rows; None for an unknown price.
    """

    entry: ReadyContestant
    left: int
    cost_usd: Span | None


def engine_of(entry: ReadyContestant) -> Engine:
    """Return the engine that asks a contestant: by `/completions` if it was tuned on that format, else by chat."""
    return _CompletionsEngine() if entry.is_bare else OnlineEngine()


def plan_contestants(entries: Sequence[ReadyContestant], folder: Path) -> list[PlannedContestant]:
    """Count the requests that a contestant still needs, and estimate their cost.

    Raises:
        BadLineError: a contestant's records cannot be read.
        DiskError: a file cannot be read.
    """
    found = []
    for entry in entries:
        directory = RunDirectory(folder / entry.contestant.name)
        settled = {record.key for _, record in read_rows(directory.records, decode_record)}
        left = sum(request.key.hex() not in settled for request in entry.opened.grid.requests())
        spending = spending_of(entry.opened, entry.choice, entry.where, in_batch=False)
        found.append(PlannedContestant(entry, left, spending.estimate(entry.opened, left) if left else Span(0, 0)))
    return found


def consent_to_plan(plan: Sequence[PlannedContestant], observer: Observer) -> None:
    """Report what will be sent, and ask for consent if it costs more than a little.

    Raises:
        UsageError: nobody can be asked, or the answer is no.
    """
    rows = 0
    total = Span(0.0, 0.0)
    for each in plan:
        contestant = each.entry.contestant
        price = ""
        if each.cost_usd is None:
            price = ", price not known"
        elif each.cost_usd.high:
            price = f", {each.cost_usd.low:,.2f} to {each.cost_usd.high:,.2f} USD"
        observer.say(
            f"{contestant.name}: {contestant.technique}, {contestant.place}: {counted(each.left, 'row')} to send{price}"
        )
        rows += each.left
        total = total + (each.cost_usd or Span(0.0, 0.0))
    consent_to_cost(total if rows else None, rows, observer)


async def ask_contestants(
    plan: Sequence[PlannedContestant],
    folder: Path,
    options: AskOptions,
    observer: Observer,
    engine: EngineOf = engine_of,
) -> int:
    """Send every contestant the rows that it has not answered. Consent to the cost was given before.

    Args:
        plan: of each contestant.
        folder: of the evaluation; each contestant has a run under its name there.
        options: shared by all contestants.
        observer: gets reports, and interrupts.
        engine: makes the engine that asks a contestant.

    Returns:
        The exit code: 0, 3 if some rows failed, or that of a signal.

    Raises:
        AsyncgenError: it could not go on; answers are kept.
    """
    code = 0
    async with _server_kept_for(plan, observer):
        for each in plan:
            if not each.left:
                continue
            entry = each.entry
            given = GenerateOptions(
                where=entry.where,
                out=folder / entry.contestant.name,
                concurrency=options.concurrency,
                rpm=options.rpm,
                tpm=options.tpm,
                max_cost=_budget_of(entry.contestant.name, folder, options.max_cost),
                retry_failed=options.retry_failed,
                cost_is_agreed=True,
            )
            done = await generate_opened(entry.opened, entry.choice, given, observer, engine=engine(entry))
            if done.outcome.error is not None:
                raise done.outcome.error
            if done.outcome.stopped is not None:
                return done.exit_code or _INTERRUPTED
            if done.interrupted:  # during the last rows of this contestant: the next one would be paid for
                go_on = f" To continue: {observer.resume_command}" if observer.resume_command else ""
                observer.say(f"stopped.{go_on}")
                return done.interrupted
            code = code or done.exit_code
    return code


def _budget_of(name: str, folder: Path, max_cost: float | None) -> float | None:
    """Budget of a contestant in USD, over all invocations: what the others and the judge have left."""
    if max_cost is None:
        return None
    spent = sum(spent_usd(state.parent) for state in folder.glob(f"*/{STATE_NAME}") if state.parent.name != name)
    if spent >= max_cost:
        raise QuotaError(
            f"this evaluation has cost {spent:,.2f} USD, so --max-cost {max_cost:g} is used up",
            help_text="raise --max-cost; the answers so far are kept",
        )
    return max_cost - spent


def spent_usd(path: Path) -> float:
    """USD that a run has cost so far; 0 if there is no run."""
    directory = RunDirectory(path)
    return directory.read_state().spend.cost_usd if directory.state.exists() else 0.0


@asynccontextmanager
async def _server_kept_for(plan: Sequence[PlannedContestant], observer: Observer) -> AsyncIterator[None]:
    """Keep the local server running for all contestants that it answers; otherwise each would start it again."""
    is_local = any(
        each.left
        and each.entry.contestant.provider == LOCAL
        and named_address(each.entry.choice.profile, each.entry.where) is None
        for each in plan
    )
    async with local_server(observer.say) if is_local else nullcontext():
        yield


class _CompletionsEngine:
    """Sends a session's rows to `/completions`."""

    async def run(self, session: Session) -> EngineResult:
        concurrency = session.limits.concurrency or session.endpoint.profile.concurrency or DEFAULT_CONCURRENCY
        async with open_completer(
            session.endpoint,
            concurrency=concurrency,
            timeout_s=session.limits.timeout_s,
            say=session.observer.say,
            path=COMPLETIONS,
        ) as completer:
            return await OnlineEngine(CompletionsCompleter(completer)).run(session)


class CompletionsCompleter:
    """Converts every chat of one message to a request for `/completions`, and passes it on.

    Args:
        completer: sends it.
    """

    def __init__(self, completer: Completer) -> None:
        self._completer = completer

    async def complete(self, body: bytes) -> Answer | AttemptError:
        return await self._completer.complete(orjson.dumps(as_completion_request(decode_json(body))))


def as_completion_request(body: dict[str, Any]) -> dict[str, Any]:
    """The request for `/completions` whose prompt is the chat's only message."""
    rest = {name: value for name, value in body.items() if name != "messages"}
    return {"model": rest.pop("model"), "prompt": body["messages"][-1]["content"], **rest}
