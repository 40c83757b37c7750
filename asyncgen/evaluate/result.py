"""The result of an evaluation and its files.

The format of `--json`, of `evaluation.json`, and of the contestants' answers beside it. Figures and verdict are left to
`measures` and `verdict`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from asyncgen.run.whole_file import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from asyncgen.evaluate.judge import JudgedPair, Judging
    from asyncgen.evaluate.measures import Answers, ContestantResult
    from asyncgen.evaluate.statistics import Interval
    from asyncgen.evaluate.verdict import PairResult, TuningBreakEven
    from asyncgen.generate.plan.request_tokens import Span

FOLDER, SUMMARY = "evaluations", "evaluation.json"
_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        path: its folder.
        rows: number of rows.
        source: where the rows are from, for the reader.
        clusters: number of clusters.
        cluster_name: what the clusters are values of; "" if every row is its own cluster.
        margin: share by which a cheaper contestant may be worse, fixed before anything was sent.
        seed: of rows, examples and intervals.
        contestants: figures of each.
        comparisons: the best contestant against every other.
        judging: verdicts of the judge; None without a judge.
        pays: number of calls from which the tuned model is cheaper.
        notes: sentences about the limits of the result.
        sentence: the conclusion.
        use: the contestant that it recommends; None if the data does not decide.
        more_rows: roughly how many more rows would decide; None if that is not the question.
        answers: row to contestant to the text of its answer.
        passed: contestant to the rows whose answer passes.
        prompts: row to its short prompt.
        cost_usd: cost of this evaluation so far.
    """

    path: Path
    rows: int
    source: str
    clusters: int
    cluster_name: str
    margin: float
    seed: int
    contestants: tuple[ContestantResult, ...]
    comparisons: tuple[PairResult, ...]
    sentence: str
    use: str | None = None
    more_rows: int | None = None
    judging: Judging | None = None
    pays: tuple[TuningBreakEven, ...] = ()
    notes: tuple[str, ...] = ()
    answers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    passed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    cost_usd: float = 0.0


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Convert an evaluation for `evaluate --json`.

    Args:
        evaluation: its results.

    Returns:
        The fields; shares are from 0 to 1, unknown values None.
    """
    return {
        "name": evaluation.path.name,
        "path": str(evaluation.path),
        "rows": evaluation.rows,
        "source": evaluation.source,
        "clusters": {"name": evaluation.cluster_name or None, "count": evaluation.clusters},
        "margin": evaluation.margin,
        "seed": evaluation.seed,
        "contestants": [_standing(each) for each in evaluation.contestants],
        "comparisons": [_pair(each) for each in evaluation.comparisons],
        "judge": _judging(evaluation.judging) if evaluation.judging else None,
        "break_even": [_pays(each) for each in evaluation.pays],
        "cost_usd": _rounded(evaluation.cost_usd),
        "notes": list(evaluation.notes),
        "use": evaluation.use,
        "more_rows": evaluation.more_rows,
        "sentence": evaluation.sentence,
    }


def _standing(standing: ContestantResult) -> dict[str, Any]:
    contestant = standing.contestant
    return {
        "name": contestant.name,
        "technique": contestant.technique,
        "provider": contestant.provider,
        "model": contestant.model,
        "n": standing.n,
        "failed": standing.failed,
        "passed": standing.passed,
        "pass_rate": _rounded(standing.pass_rate.value),
        "ci95": _bounds(standing.pass_rate),
        "by_value": {name: {"passed": k, "n": n} for name, (k, n) in standing.by_value.items()},
        "check_failures": dict(standing.check_failures),
        "mentions": _estimate(standing.mentions),
        "words": _estimate(standing.words),
        "diversity": {
            "compression": _rounded(standing.compression),
            "distinct_1": _rounded(standing.distinct_1),
            "distinct_2": _rounded(standing.distinct_2),
            "duplicates": standing.duplicates,
            "near_duplicates": standing.near_duplicates,
        },
        "copied": _rounded(standing.copied),
        "copied_beyond_held_out": _rounded(standing.copied_beyond),
        "tokens_in": _rounded(standing.tokens_in),
        "tokens_out": _rounded(standing.tokens_out),
        "latency_s": {"p50": _rounded(standing.latency_p50_s), "p95": _rounded(standing.latency_p95_s)},
        "cost_usd_per_1000": _rounded(standing.cost_usd_per_1000),
        "simulated": standing.simulated,
    }


def _pair(pair: PairResult) -> dict[str, Any]:
    return {
        "a": pair.a,
        "b": pair.b,
        "difference": _rounded(pair.difference.value),
        "ci95": _bounds(pair.difference),
        "p": _rounded(pair.p),
        "p_holm": _rounded(pair.p_corrected),
        "pairs": pair.pairs,
        "only_a": pair.only_a,
        "only_b": pair.only_b,
    }


def _judging(judging: Judging) -> dict[str, Any]:
    return {
        "judge": judging.judge,
        "pairs": [_judged(each) for each in judging.pairs],
        "first_share": _estimate(judging.first_share),
        "family": list(judging.family),
        "strengths": {name: _rounded(each) for name, each in judging.strengths.items()},
    }


def _judged(pair: JudgedPair) -> dict[str, Any]:
    return {
        "a": pair.a,
        "b": pair.b,
        "wins": pair.wins,
        "ties": pair.ties,
        "losses": pair.losses,
        "unreadable": pair.unreadable,
        "rate": _estimate(pair.rate),
        "p_holm": _rounded(pair.p),
        "flipped": _rounded(pair.flipped),
        "length_ratio": _rounded(pair.length_ratio),
        "length_controlled": _rounded(pair.length_controlled),
    }


def _pays(pays: TuningBreakEven) -> dict[str, Any]:
    never = pays.calls is not None and math.isinf(pays.calls.low)
    return {
        "tuned": pays.tuned,
        "other": pays.other,
        "outlay_usd": _span(pays.outlay_usd),
        "pays": None if pays.calls is None else not never,
        "calls": None if never else _span(pays.calls),
        "note": pays.note,
    }


def _span(span: Span | None) -> dict[str, float] | None:
    return span.rounded() if span else None


def _estimate(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else {"value": _rounded(interval.value), "ci95": _bounds(interval)}


def _bounds(interval: Interval) -> list[float | None]:
    return [_rounded(interval.low), _rounded(interval.high)]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)


def write_evaluation(evaluation: Evaluation, settings: Mapping[str, Any], answers: Mapping[str, Answers]) -> None:
    """Write the result, and the contestants' answers next to it.

    Raises:
        DiskError: a file could not be written.
    """
    for name, each in answers.items():
        with replacing(evaluation.path / f"{name}.jsonl") as file:
            file.writelines(_line(row, each) for row in each.by_row)
    write_summary(evaluation.path, {**settings, **as_json(evaluation)})


def _line(row: str, answers: Answers) -> bytes:
    answer = answers.by_row[row]
    line = {
        "key": row,
        "prompt": answer.row.prompt,
        "completion": answer.record.completion,
        "variables": dict(answer.row.variables),
        "model": answer.record.model,
        "passed": answer.passed,
        "check_failures": list(answer.failures),
    }
    return orjson.dumps(line) + b"\n"


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Put `evaluation.json` in its place; raises `DiskError`."""
    with replacing(folder / SUMMARY) as file:
        file.write(orjson.dumps(summary, option=orjson.OPT_INDENT_2) + b"\n")
