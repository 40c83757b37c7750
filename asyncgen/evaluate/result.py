"""The result of an evaluation and its files: JSON, the contestants' answers, one HTML page, and the votes.

The format of `--json`, of `evaluation.json`, and of the contestants' answers beside it. Figures and verdict are left to
`measures` and `verdict`.

The page is self-contained, with answers side by side. It keeps votes in a file that a person saves and hands back. They
are stored in the evaluation's `votes.jsonl`, where `asyncgen view` stores its own, and compared with the judge's
verdicts.
"""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib import resources
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from asyncgen.errors import UsageError
from asyncgen.evaluate.statistics import agreement
from asyncgen.json_text import decoder
from asyncgen.run.directory import output_file
from asyncgen.run.jsonl import LineFile, read_rows
from asyncgen.run.whole_file import replacing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from asyncgen.evaluate.judge import JudgedPair, Judging
    from asyncgen.evaluate.measures import Answers, ContestantResult
    from asyncgen.evaluate.statistics import Interval
    from asyncgen.evaluate.verdict import PairResult, TuningBreakEven
    from asyncgen.generate.plan.request_tokens import Span


FOLDER, SUMMARY = "evaluations", "evaluation.json"
_DIGITS = 6
VOTES = "votes.jsonl"
TIE = "tie"
_DATA = "/*DATA*/"


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
    """Write `evaluation.json`; raises `DiskError`."""
    with replacing(folder / SUMMARY) as file:
        file.write(orjson.dumps(summary, option=orjson.OPT_INDENT_2) + b"\n")


class BallotVote(msgspec.Struct, frozen=True, kw_only=True):
    """A person's choice: the contestant whose answer to the row is better, or `TIE`; as `asyncgen view` keeps it."""

    row: str
    winner: str
    created: int
    blind: bool = False


@dataclass(frozen=True, slots=True)
class Agreement:
    """Votes of people, and how far the judge agrees.

    Attributes:
        tally: contestant, or "tie", to number of votes.
        compared: votes on rows that the judge has compared, too.
        kappa: Cohen's kappa; None if nothing can be compared.
    """

    tally: Mapping[str, int]
    compared: int
    kappa: float | None

    def as_json(self) -> dict[str, Any]:
        """The fields for `--json`."""
        return {"tally": dict(self.tally), "compared": self.compared, "kappa": self.kappa}


_decode_vote = decoder(BallotVote)
_encode = msgspec.json.Encoder().encode


def write_page(evaluation: Evaluation, path: Path) -> None:
    """Write an evaluation as one HTML page without external files.

    Args:
        evaluation: its results.
        path: where to write it.

    Raises:
        UsageError: the path is a file of a run.
        DiskError: it cannot be written.
    """
    text = resources.files("asyncgen.evaluate").joinpath("page.html").read_text(encoding="utf-8")
    # A script element must not contain anything like its end tag.
    data = orjson.dumps(_data(evaluation)).decode().replace("<", "\\u003c")
    with output_file(path) as file:
        file.write(text.replace(_DATA, data, 1).encode())


def _data(evaluation: Evaluation) -> dict[str, Any]:
    names = [each.contestant.name for each in evaluation.contestants]
    return {
        "summary": as_json(evaluation),
        "rows": [
            {
                "row": vote_row(row),
                "prompt": prompt,
                "answers": [
                    {"name": name, "text": evaluation.answers[row][name], "passed": row in evaluation.passed[name]}
                    for name in names
                    if name in evaluation.answers[row]
                ],
            }
            for row, prompt in evaluation.prompts.items()
        ],
    }


def vote_row(row: str) -> str:
    """The id of a row in votes, derived from the row's key as `asyncgen view` does it."""
    return blake2b(f"{row}\0".encode(), digest_size=8).hexdigest()


def import_votes(evaluation: Evaluation, path: Path | None) -> Agreement | None:
    """Import the votes of a file that the page saved, and compare all votes with the judge.

    Args:
        evaluation: the evaluation that was voted on.
        path: the file; None for no new votes.

    Returns:
        The agreement; None if there are no votes.

    Raises:
        UsageError: a vote is on a row or contestant that the evaluation does not have.
        BadLineError: a line is not a vote.
        DiskError: a file cannot be read or written.
    """
    kept = evaluation.path / VOTES
    there = [vote for _, vote in read_rows(kept, _decode_vote)]
    if path is not None:
        new = [vote for _, vote in read_rows(path, _decode_vote) if vote not in there]
        _refuse_foreign_votes(evaluation, new, path)
        if new:
            with closing(LineFile(kept)) as file:
                for vote in new:
                    file.append(_encode(vote) + b"\n")
                file.sync()
        there += new
    newest = {vote.row: vote.winner for vote in there}
    return _agreement(evaluation, newest) if newest else None


def _refuse_foreign_votes(evaluation: Evaluation, votes: Sequence[BallotVote], path: Path) -> None:
    rows = {vote_row(row) for row in evaluation.prompts}
    winners = {each.contestant.name for each in evaluation.contestants} | {TIE}
    if any(vote.row not in rows or vote.winner not in winners for vote in votes):
        raise UsageError(
            f"the votes in {path} belong to another evaluation than {evaluation.path.name}",
            help_text="use the same options as for the page, or name the evaluation with --name",
        )


def _agreement(evaluation: Evaluation, votes: Mapping[str, str]) -> Agreement:
    names = [each.contestant.name for each in evaluation.contestants]
    tally = {name: list(votes.values()).count(name) for name in (*names, TIE)}
    compared = list(_compared(evaluation, votes))
    kappa = agreement([person for person, _ in compared], [judge for _, judge in compared])
    return Agreement(tally, len(compared), kappa)


def _compared(evaluation: Evaluation, votes: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The votes of the person and of the judge, for every pair that both have compared."""
    scores = evaluation.judging.scores if evaluation.judging else {}
    for (row, a, b), score in scores.items():
        winner = votes.get(vote_row(row))
        if winner in {a, b, TIE}:
            yield str(winner), a if score == 1 else b if score == 0 else TIE
