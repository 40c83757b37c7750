"""Measures of one contestant's answers: checks passed, mentions, length, diversity, copying, tokens, time and money.

Comparing contestants is left to `verdict`.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from asyncgen.dataset.near_duplicates import similar
from asyncgen.dataset.samples import unusable
from asyncgen.evaluate.contestants import ROW_COLUMN, Contestant, ReadyContestant
from asyncgen.evaluate.rows import DatasetSample, copies_of_samples
from asyncgen.evaluate.statistics import FEWEST_CLUSTERS, Interval, bootstrap, quantile, wilson
from asyncgen.providers.price import Price, tier_of
from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import Record, Usage, decode_failure, decode_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from asyncgen.evaluate.rows import EvaluationRow
    from asyncgen.job.answers import AnswerChecks
    from asyncgen.run.directory import RunDirectory

LABEL = "label"
_FEWEST_FOR_DIVERSITY = 3


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """An answer to a row, and the result of the job's checks.

    Attributes:
        failures: names of the checks that it does not pass; `prepare` would not take it then.
    """

    row: EvaluationRow
    record: Record
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def text(self) -> str:
        return self.record.completion.strip()


@dataclass(frozen=True, slots=True)
class Answers:
    """All answers of a contestant, by the row's id.

    Attributes:
        failed: rows that were given up on.
    """

    entry: ReadyContestant
    by_row: Mapping[str, JudgedAnswer]
    failed: int

    @property
    def simulated(self) -> bool:
        """Whether the answers are simulated."""
        return any(answer.record.simulated for answer in self.by_row.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class ContestantResult:
    """The measures of a contestant.

    Attributes:
        contestant: technique, provider and model.
        n: number of rows answered.
        failed: rows given up on, which are not in `n`.
        passed: answers that `prepare` would accept as samples.
        pass_rate: their share with its 95 % interval.
        by_value: held-out value to (passed, answered), if rows form clusters.
        check_failures: name of a check to number of answers that fail it.
        mentions: share of the row's values that occur in the answer, a mean over rows; None if rows have none.
        words: mean number of words.
        compression: bytes of all answers per byte after compression, cut to the same length for all contestants; higher
            means more repetition. None for fewer than three answers.
        distinct_1: distinct words per word, of the same part.
        distinct_2: distinct word pairs per pair, of the same part.
        duplicates: answers equal to an earlier one.
        near_duplicates: answers nearly the same as an earlier one.
        copied: share of answers with 13 consecutive words of a training sample.
        copied_beyond: the same minus that of the run's held-out samples; None if it has none.
        tokens_in: mean per row.
        tokens_out: mean per row.
        latency_p50_s: median seconds from sending to the whole answer; None if no server was asked.
        latency_p95_s: 95th percentile of the same.
        cost_usd_per_1000: USD per 1,000 rows; None for an unknown price.
        simulated: whether a simulation answered.
    """

    contestant: Contestant
    n: int
    failed: int
    passed: int
    pass_rate: Interval
    by_value: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    check_failures: Mapping[str, int] = field(default_factory=dict)
    mentions: Interval | None = None
    words: Interval | None = None
    compression: float | None = None
    distinct_1: float | None = None
    distinct_2: float | None = None
    duplicates: int = 0
    near_duplicates: int = 0
    copied: float | None = None
    copied_beyond: float | None = None
    tokens_in: float = 0.0
    tokens_out: float = 0.0
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    cost_usd_per_1000: float | None = None
    simulated: bool = False


def read_answers(
    entry: ReadyContestant, directory: RunDirectory, rows: Sequence[EvaluationRow], checks: AnswerChecks | None
) -> Answers:
    """Match a contestant's records with the rows, and check each.

    Args:
        entry: the contestant.
        directory: of its run; records that its job no longer asks for are skipped.
        rows: of the evaluation.
        checks: of the run's job; None if they are about other texts than the tuned model's.

    Returns:
        The answers.

    Raises:
        BadLineError: a line of the records or failures is damaged.
        DiskError: a file cannot be read.
    """
    by_id = {row.id: row for row in rows}
    found: dict[str, JudgedAnswer] = {}
    for _, record in read_rows(directory.records, decode_record):
        row = by_id.get(record.variables.get(ROW_COLUMN, ""))
        if row is not None and entry.opened.grid.match(record) is not None:
            found[row.id] = JudgedAnswer(row, record, tuple(_failures(row, record, checks)))
    failures = {
        failure.variables.get(ROW_COLUMN, ""): failure
        for _, failure in read_rows(directory.failures, decode_failure)
        if entry.opened.grid.match(failure) is not None
    }
    failed = [name for name in failures if name in by_id and name not in found]
    return Answers(entry, {row.id: found[row.id] for row in rows if row.id in found}, len(failed))


def _failures(row: EvaluationRow, record: Record, checks: AnswerChecks | None) -> Iterator[str]:
    if reason := unusable(record):
        yield reason
    if checks is not None:
        yield from checks.failures(record.completion, row.variables)
    elif row.expected is not None and _plain(record.completion) != _plain(row.expected):
        yield LABEL


def _plain(text: str) -> str:
    """Normalise a label: without case, blanks, and surrounding full stops or quotes."""
    return " ".join(text.casefold().split()).strip(" .\"'`")


@dataclass(frozen=True, slots=True)
class CopySources:
    """Texts that answers may have been copied from.

    Attributes:
        train: reads the tuned model's training samples from the start.
        held_out: answers of the model that wrote the data that no model was trained on.
    """

    train: Callable[[], Iterable[DatasetSample]]
    held_out: Sequence[str]


def standings(
    answers: Sequence[Answers], taught: CopySources, prices: Mapping[str, Price | None], *, seed: int
) -> list[ContestantResult]:
    """Measure all contestants, in their order.

    Args:
        answers: of each.
        taught: what copying is measured by.
        prices: of each contestant's model, by its name.
        seed: decides the draws of intervals.
    """
    texts = [[answer.text for answer in each.by_row.values()] for each in answers]
    sizes = [len("\n".join(each).encode()) for each in texts if len(each) >= _FEWEST_FOR_DIVERSITY]
    copies = copies_of_samples([text for each in [*texts, taught.held_out] for text in each], taught.train())
    held_out = copies[sum(map(len, texts)) :]
    baseline = fmean(held_out) if held_out else None
    found, begin = [], 0
    for each, answer_texts in zip(answers, texts, strict=True):
        copied = fmean(copies[begin : begin + len(answer_texts)]) if answer_texts else None
        begin += len(answer_texts)
        beyond = None if copied is None or baseline is None else copied - baseline
        found.append(
            ContestantResult(
                contestant=each.entry.contestant,
                failed=each.failed,
                simulated=each.simulated,
                copied=copied,
                copied_beyond=beyond,
                **_passing(each, seed),
                **_diversity(answer_texts, min(sizes, default=0)),
                **_usage(each, prices.get(each.entry.contestant.name)),
            )
        )
    return found


def _passing(answers: Answers, seed: int) -> dict[str, Any]:
    judged = list(answers.by_row.values())
    clusters = [answer.row.cluster for answer in judged]
    passed = [answer.passed for answer in judged]
    by_value: dict[str, tuple[int, int]] = {}
    for answer in judged:
        of_value = by_value.get(answer.row.cluster, (0, 0))
        by_value[answer.row.cluster] = of_value[0] + answer.passed, of_value[1] + 1
    mentioned = [(share, answer.row.cluster) for answer in judged if (share := _mentions(answer)) is not None]
    words = [float(len(answer.text.split())) for answer in judged]
    return {
        "n": len(judged),
        "passed": sum(passed),
        "pass_rate": share_of(passed, clusters, seed),
        "by_value": by_value if len(by_value) < len(judged) else {},
        "check_failures": dict(Counter(name for answer in judged for name in answer.failures).most_common()),
        "mentions": bootstrap(*zip(*mentioned, strict=True), seed=seed) if mentioned else None,
        "words": bootstrap(words, clusters, seed=seed) if words else None,
    }


def share_of(passed: Sequence[bool], clusters: Sequence[str], seed: int) -> Interval:
    """A share with Wilson's interval; over clusters if there are enough of them."""
    if are_clustered(clusters) and len(set(clusters)) >= FEWEST_CLUSTERS:
        return bootstrap(list(map(float, passed)), clusters, seed=seed)
    return wilson(sum(passed), len(passed))


def are_clustered(clusters: Sequence[str]) -> bool:
    """Whether some rows have a cluster in common."""
    return len(set(clusters)) < len(clusters)


def _mentions(answer: JudgedAnswer) -> float | None:
    """The share of the row's values that occur in the answer, ignoring case."""
    text = answer.text.casefold()
    values = [value.casefold().strip() for value in answer.row.variables.values() if value.strip()]
    return fmean([value in text for value in values]) if values else None


def _diversity(texts: Sequence[str], size: int) -> dict[str, Any]:
    """How different the answers are, measured on their first `size` bytes: longer texts always repeat more."""
    found: dict[str, Any] = {
        "duplicates": len(texts) - len(set(texts)),
        "near_duplicates": sum(1 for _ in similar(range(len(texts)), texts.__getitem__)),
    }
    if len(texts) < _FEWEST_FOR_DIVERSITY or not size:
        return found
    cut = "\n".join(texts).encode()[:size]
    words = cut.decode(errors="ignore").casefold().split()
    pairs = list(pairwise(words))
    return found | {
        "compression": len(cut) / len(zlib.compress(cut, 9)),
        "distinct_1": len(set(words)) / len(words) if words else None,
        "distinct_2": len(set(pairs)) / len(pairs) if pairs else None,
    }


def _usage(answers: Answers, price: Price | None) -> dict[str, Any]:
    records = [answer.record for answer in answers.by_row.values()]
    if not records:
        return {}
    tier = tier_of(answers.entry.opened.grid.parameters)
    costs = [cost_of(record.usage, price, tier) for record in records]
    known = [cost for cost in costs if cost is not None]
    latencies = [record.latency_s for record in records if record.latency_s]
    return {
        "tokens_in": fmean([record.usage.prompt_tokens for record in records]),
        "tokens_out": fmean([record.usage.completion_tokens for record in records]),
        "latency_p50_s": quantile(latencies, 0.5) if latencies else None,
        "latency_p95_s": quantile(latencies, 0.95) if latencies else None,
        "cost_usd_per_1000": 1000 * fmean(known) if len(known) == len(records) else None,
    }


def cost_of(usage: Usage, price: Price | None, tier: str) -> float | None:
    """USD for one answer: what the provider says that it charged, else by the price; None where neither is known."""
    if usage.cost_usd is not UNSET:
        return usage.cost_usd
    return None if price is None else price.cost_usd(usage, tier)
