"""Tokens and time that the rows of a job take: measured if the run has answers, otherwise estimated in wide bounds.

What a run holds already, and what its answers cost, is read in one pass over its files: read-only and without a lock,
since the run may be written at the same time. Contains the arithmetic of estimates with bounds (`Span`). Rate limits
that the server has not told yet are not considered. Prices are left to `costs`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import mean
from typing import TYPE_CHECKING

import msgspec

from asyncgen.generate.journal.settled import key_number
from asyncgen.job.requests import RequestGrid
from asyncgen.job.row_matching import match_rows
from asyncgen.json_text import decoder
from asyncgen.providers.tokens import estimate_body, estimate_messages, estimate_text
from asyncgen.run.jsonl import rows_in
from asyncgen.run.key_set import KeySet
from asyncgen.run.records import decode_failure, decode_record
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from asyncgen.job.model import Checks, Job, Limits
    from asyncgen.run.directory import RunDirectory


@dataclass(slots=True)
class Figures:
    """Running count, mean and variance of a figure (Welford's method)."""

    count: int = 0
    mean: float = 0.0
    _squares: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        step = value - self.mean
        self.mean += step / self.count
        self._squares += step * (value - self.mean)

    @property
    def error(self) -> float:
        """How far the mean may be off: two standard errors."""
        return 2 * math.sqrt(self._squares / max(self.count - 1, 1) / max(self.count, 1))


@dataclass(slots=True)
class RunMeasurements:
    """Counts and measures of a job's rows in a run.

    Attributes:
        settled: rows of the job that have an answer.
        failed: rows of the job with a failure and no record.
        in_batches: rows of the run that wait in open batches.
        stale: records that are no longer in the job.
        twins: duplicates, rows of the job with the same request as an earlier one; they share its answer.
        prompt_tokens: of each settled row, over all its attempts.
        completion_tokens: of each settled row, over all its attempts.
        answer_tokens: of one answer.
        latency_s: of one answer.
    """

    settled: int = 0
    failed: int = 0
    in_batches: int = 0
    stale: int = 0
    twins: int = 0
    prompt_tokens: Figures = field(default_factory=Figures)
    completion_tokens: Figures = field(default_factory=Figures)
    answer_tokens: Figures = field(default_factory=Figures)
    latency_s: Figures = field(default_factory=Figures)


def measure_run(directory: RunDirectory, grid: RequestGrid) -> RunMeasurements:
    """Count and measure the rows of a grid in a run.

    Args:
        directory: of the run, which need not exist.
        grid: the job's requests.

    Returns:
        Counts and measured tokens.

    Raises:
        BadLineError: a line is not a record or failure.
        AsyncgenError: `run.json` was written by a newer release.
        DiskError: a file cannot be read.
    """
    match_rows(directory, grid)
    twins = grid.twins()
    there = RunMeasurements(twins=sum(map(len, twins.values())))
    for record in rows_in(directory.record_files(), decode_record):
        if grid.match(record) is None:
            there.stale += 1
            continue
        there.settled += 1
        there.prompt_tokens.add(record.usage.prompt_tokens)
        there.completion_tokens.add(record.usage.completion_tokens)
        there.answer_tokens.add(record.usage.completion_tokens / max(record.asked, 1))
        if record.latency_s > 0:
            there.latency_s.add(record.latency_s)
    there.failed = _failed(directory, grid)
    there.in_batches = _in_batches(directory)
    return there


def _in_batches(directory: RunDirectory) -> int:
    try:
        state = directory.read_state()
    except FileNotFoundError:
        return 0
    return sum(batch.requests for batch in state.batches if not batch.collected)


class _Key(msgspec.Struct, gc=False):
    key: str


_decode_key = decoder(_Key)


def _failed(directory: RunDirectory, grid: RequestGrid) -> int:
    failed = KeySet()
    for failure in rows_in(directory.failure_files(), decode_failure):
        if grid.match(failure) is not None:
            failed.add_number(key_number(failure.key))
    if not failed:
        return 0
    settled_later = (key_number(row.key) for row in rows_in(directory.record_files(), _decode_key))
    return len(failed) - sum(map(failed.has, settled_later))


@dataclass(frozen=True, slots=True)
class Span:
    """A range of possible values, from `low` to `high` inclusive."""

    low: float
    high: float

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> Span:
        return Span(self.low * factor, self.high * factor)

    @property
    def middle(self) -> float:
        """The mean of both ends."""
        return (self.low + self.high) / 2

    def rounded(self) -> dict[str, float]:
        """For JSON: whole numbers stay whole, USD keep six decimals."""
        return {"low": round(self.low, 6), "high": round(self.high, 6)}


_GUESSED_LATENCY_S = 3.0
_GUESSED_CONCURRENCY = 64


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds, and the limit that determines them, as a text."""

    seconds: float
    bound_by: str


def duration(rows: int, tokens: RequestTokens, there: RunMeasurements, limits: Limits) -> Duration:
    """The time that `rows` rows take at the job's limits, if the server has no lower ones."""
    latency_s = there.latency_s.mean if there.latency_s.count else _GUESSED_LATENCY_S
    concurrency = limits.concurrency or _GUESSED_CONCURRENCY
    seen = "as measured" if there.latency_s.count else "a guess"
    bounds = [Duration(rows * latency_s / concurrency, f"{concurrency} in flight at {latency_s:.1f} s each ({seen})")]
    if limits.requests_per_minute:
        bounds.append(
            Duration(rows * 60 / limits.requests_per_minute, f"{limits.requests_per_minute:,.0f} requests per minute")
        )
    if limits.tokens_per_minute:
        # Providers count a request as its prompt plus its maximum answer.
        held = tokens.prompt.middle + tokens.completion.high
        bounds.append(
            Duration(rows * held * 60 / limits.tokens_per_minute, f"{limits.tokens_per_minute:,.0f} tokens per minute")
        )
    longest = max(bounds, key=lambda each: each.seconds)
    return Duration(max(longest.seconds, latency_s if rows else 0.0), longest.bound_by)


_SAMPLED_REQUESTS = 500
_ENOUGH_ROWS = 3
_ESTIMATE_OFF = (0.8, 1.3)  # bytes over four, against the tokenizers of the models in use, in several languages
_TOKENS_PER_WORD = 1.5
_TOKENS_PER_SENTENCE = 40
_UNBOUNDED_ANSWER = 1000
_UNBOUNDED_REASONING = 8000


@dataclass(frozen=True, slots=True)
class RequestTokens:
    """Tokens of one row.

    Attributes:
        prompt: tokens sent, repeated attempts included.
        completion: tokens answered, repeated attempts included.
        answer: tokens of the answer that is kept.
        question: tokens of the prompt sent once.
        short_prompt: tokens of the tuned model's prompt, its system message included.
        basis: how these figures were found, for the reader.
    """

    prompt: Span
    completion: Span
    answer: Span
    question: float
    short_prompt: float
    basis: str


def tokens_of_a_request(job: Job, grid: RequestGrid, there: RunMeasurements) -> RequestTokens:
    """Find the tokens of a row: measured in the run, or estimated by rules of thumb if too few rows are settled.

    Args:
        job: with its overlay applied.
        grid: its requests.
        there: what was measured in the run.

    Returns:
        Tokens of prompt and answer.
    """
    sampled = list(grid.sample_evenly(_SAMPLED_REQUESTS))
    question = mean(estimate_body(request.body) for request in sampled) if sampled else 0.0
    system = [job.dataset.system] if job.dataset.system and job.dataset.format == "chat" else []
    prompts = [estimate_messages([*system, grid.prompt(request)]) for request in sampled]
    short_prompt = mean(prompts) if prompts else 0.0
    if there.settled >= _ENOUGH_ROWS:
        return RequestTokens(
            prompt=_measured(there.prompt_tokens),
            completion=_measured(there.completion_tokens),
            answer=_measured(there.answer_tokens),
            question=question,
            short_prompt=short_prompt,
            basis=f"measured on the {counted(there.settled, 'row')} that have answers",
        )
    low, high = _ESTIMATE_OFF
    answer = _answer_tokens(job, grid.max_output_tokens)
    return RequestTokens(
        prompt=Span(question * low, question * high * job.checks.attempts),
        completion=Span(answer.low, answer.high * job.checks.attempts),
        answer=answer,
        question=question,
        short_prompt=short_prompt,
        basis=_basis(job, grid.max_output_tokens),
    )


def _measured(figures: Figures) -> Span:
    return Span(max(figures.mean - figures.error, 0.0), figures.mean + figures.error)


def _answer_tokens(job: Job, cap: int | None) -> Span:
    """Bounds for one answer: by its cap, the checks it is to pass, and the worked examples."""
    likely = _likely_answer(job)
    if cap is not None:
        return Span(min(cap / 5 if likely is None else likely / 2, cap), cap)
    high = _UNBOUNDED_REASONING if _reasons(job) else _UNBOUNDED_ANSWER
    return Span((high / 10) if likely is None else likely / 2, high if likely is None else max(likely * 2, high))


def _likely_answer(job: Job) -> float | None:
    bounds = [*_bounds_by_checks(job.checks)]
    if job.prompt.examples:
        bounds.append(mean(estimate_text(example.completion) for example in job.prompt.examples))
    return min(bounds, default=None)


def _bounds_by_checks(checks: Checks) -> list[float]:
    bounds = (
        (checks.max_sentences, _TOKENS_PER_SENTENCE),
        (checks.max_words, _TOKENS_PER_WORD),
        (checks.max_characters, 0.25),
    )
    return [most * tokens for most, tokens in bounds if most is not None]


def _reasons(job: Job) -> bool:
    return str(job.generate.parameters.get("reasoning_effort", "none")) != "none"


def _basis(job: Job, cap: int | None) -> str:
    words = ["estimated without a tokenizer"]
    if cap is None:
        words.append("no max_tokens under [generate], so the answers' length is a guess")
    else:
        words.append(f"answers have at most {counted(cap, 'token')}")
    if _reasons(job):
        words.append("hidden reasoning cannot be estimated")
    if job.checks.attempts > 1:
        words.append(f"upper bound: {job.checks.attempts} attempts for every answer")
    return "; ".join(words)
