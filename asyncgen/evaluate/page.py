"""An evaluation as one self-contained HTML page with answers side by side, and the votes that come back from it.

The page keeps votes in a file that a person saves and hands back. They are stored in the evaluation's `votes.jsonl`,
where `asyncgen view` stores its own, and compared with the judge's verdicts.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from hashlib import blake2b
from importlib import resources
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from asyncgen.errors import UsageError
from asyncgen.evaluate.result import Evaluation, as_json
from asyncgen.evaluate.statistics import agreement
from asyncgen.json_text import decoder
from asyncgen.run.directory import output_file
from asyncgen.run.jsonl import LineFile, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

VOTES = "votes.jsonl"
TIE = "tie"
_DATA = "/*DATA*/"


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
    """The name that votes have for a row, as `asyncgen view` makes it of the row's key."""
    return blake2b(f"{row}\0".encode(), digest_size=8).hexdigest()


def take_votes(evaluation: Evaluation, path: Path | None) -> Agreement | None:
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
        _refuse_strange(evaluation, new, path)
        if new:
            with closing(LineFile(kept)) as file:
                for vote in new:
                    file.append(_encode(vote) + b"\n")
                file.sync()
        there += new
    newest = {vote.row: vote.winner for vote in there}
    return _agreement(evaluation, newest) if newest else None


def _refuse_strange(evaluation: Evaluation, votes: Sequence[BallotVote], path: Path) -> None:
    rows = {vote_row(row) for row in evaluation.prompts}
    winners = {each.contestant.name for each in evaluation.contestants} | {TIE}
    if any(vote.row not in rows or vote.winner not in winners for vote in votes):
        raise UsageError(
            f"{path} has votes on another evaluation than {evaluation.path.name}",
            help_text="give the same options as for the page, or name the evaluation with --name",
        )


def _agreement(evaluation: Evaluation, votes: Mapping[str, str]) -> Agreement:
    names = [each.contestant.name for each in evaluation.contestants]
    tally = {name: list(votes.values()).count(name) for name in (*names, TIE)}
    compared = list(_compared(evaluation, votes))
    kappa = agreement([person for person, _ in compared], [judge for _, judge in compared])
    return Agreement(tally, len(compared), kappa)


def _compared(evaluation: Evaluation, votes: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The person's word and the judge's, for every pair that both have looked at."""
    scores = evaluation.judging.scores if evaluation.judging else {}
    for (row, a, b), score in scores.items():
        winner = votes.get(vote_row(row))
        if winner in {a, b, TIE}:
            yield str(winner), a if score == 1 else b if score == 0 else TIE
