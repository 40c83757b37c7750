"""An evaluation for the page: answers side by side, and a person's votes.

Reads `evaluations/NAME/` in a run's directory: `evaluation.json` with the contestants, and `NAME.jsonl` with the
answers of each. Rows of different contestants are matched by key, or by prompt and repeat. Votes are appended to
`votes.jsonl`. A blind page gets the names only after the vote.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec

from asyncgen.errors import UsageError, command_line
from asyncgen.json_text import NotJsonError, decoder
from asyncgen.run.jsonl import LineFile, read_rows
from asyncgen.run.whole_file import read_whole

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "evaluations"
SUMMARY = "evaluation.json"
VOTES = "votes.jsonl"
TIE = "tie"
_MAX_BYTES = 64 * 1024 * 1024


class EvaluatedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One contestant's answer to one prompt."""

    prompt: str
    completion: str = ""
    key: str = ""
    repeat: int = 0
    variables: dict[str, str] = {}
    model: str = ""
    passed: bool | None = None
    check_failures: list[str] = []


class Vote(msgspec.Struct, frozen=True, kw_only=True):
    """A person's choice: the contestant whose answer to the row is better, or `TIE`."""

    row: str
    winner: str
    created: int
    blind: bool = False


@dataclass(slots=True)
class EvaluationFiles:
    """The answers of an evaluation.

    Attributes:
        summary: content of `evaluation.json`; empty if there is none yet.
        contestants: names, in the order of the summary.
        rows: row to contestant to answer.
        votes: row to the latest vote.
    """

    name: str
    summary: dict[str, Any] = field(default_factory=dict)
    contestants: list[str] = field(default_factory=list)
    rows: dict[str, dict[str, EvaluatedAnswer]] = field(default_factory=dict)
    votes: dict[str, Vote] = field(default_factory=dict)


_decode_answer = decoder(EvaluatedAnswer)
_decode_vote = decoder(Vote)
_decode_summary = decoder(dict[str, Any])
_encode = msgspec.json.Encoder().encode


def evaluation_names(run: Path) -> list[str]:
    """The evaluations of the run at `run`, the newest first."""
    folders = [path for path in (run / FOLDER).glob("*") if path.is_dir()]
    return [path.name for path in sorted(folders, key=lambda path: (-path.stat().st_mtime_ns, path.name))]


def read_evaluation(run: Path, name: str) -> EvaluationFiles:
    """Read an evaluation.

    Raises:
        UsageError: the run has none of that name.
        BadLineError: a line is not an answer.
        DiskError: a file cannot be read.
    """
    if name not in evaluation_names(run):
        help_text = f"{command_line('evaluate', run)}   (creates one)"
        raise UsageError(f"{run} has no evaluation {name!r}", help_text=help_text)
    folder = run / FOLDER / name
    found = EvaluationFiles(name, _summary(folder / SUMMARY))
    named = [str(each.get("name", "")) for each in found.summary.get("contestants", []) if isinstance(each, dict)]
    files = {path.stem: path for path in sorted(folder.glob("*.jsonl")) if path.name != VOTES}
    found.contestants = [name for name in named if name in files] + [name for name in files if name not in named]
    for contestant in found.contestants:
        for _, answer in read_rows(files[contestant], _decode_answer):
            found.rows.setdefault(_row_of(answer), {})[contestant] = answer
    for _, vote in read_rows(folder / VOTES, _decode_vote):
        found.votes[vote.row] = vote
    return found


def add_vote(run: Path, name: str, vote: Vote) -> None:
    """Append a vote; raises as `read_evaluation` does, and DiskError when it cannot be written."""
    if name not in evaluation_names(run):
        raise UsageError(f"{run} has no evaluation {name!r}")
    with closing(LineFile(run / FOLDER / name / VOTES)) as file:
        file.append(_encode(vote) + b"\n")
        file.sync()


def shown(evaluation: EvaluationFiles, *, blind: bool) -> dict[str, Any]:
    """Convert an evaluation for the page.

    Args:
        evaluation: the evaluation.
        blind: shuffle the answers of rows without a vote, and name them by letters.
    """
    return {
        "name": evaluation.name,
        "contestants": evaluation.contestants,
        "summary": evaluation.summary,
        "votes": _vote_counts(evaluation),
        "rows": [_row(evaluation, row, answers, blind=blind) for row, answers in evaluation.rows.items()],
    }


def winner_of(evaluation: EvaluationFiles, row: str, choice: str, *, blind: bool) -> str:
    """Find the contestant that a choice on a page means.

    Args:
        evaluation: the evaluation.
        row: one of its rows.
        choice: a contestant's name, a letter on a blind page, or `TIE`.
        blind: whether the page showed letters.

    Returns:
        The contestant's name, or `TIE`.

    Raises:
        UsageError: there is no such row or answer.
    """
    answers = evaluation.rows.get(row)
    if answers is None:
        raise UsageError(f"the evaluation has no row {row!r}")
    if choice == TIE:
        return TIE
    names = dict(zip(_LETTERS, _shuffled(row, answers), strict=False)) if blind else {name: name for name in answers}
    if choice not in names:
        raise UsageError(f"the row has no answer {choice!r}")
    return names[choice]


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _row(evaluation: EvaluationFiles, row: str, answers: dict[str, EvaluatedAnswer], *, blind: bool) -> dict[str, Any]:
    first = next(iter(answers.values()))
    vote = evaluation.votes.get(row)
    hidden = blind and vote is None
    order = _shuffled(row, answers) if blind else [name for name in evaluation.contestants if name in answers]
    return {
        "row": row,
        "prompt": first.prompt,
        "variables": first.variables,
        "differs": len({answer.completion for answer in answers.values()}) > 1,
        "vote": None if vote is None else vote.winner,
        "answers": [
            {
                "letter": _LETTERS[number % len(_LETTERS)],
                "name": None if hidden else name,
                "completion": answers[name].completion,
                "passed": answers[name].passed,
                "check_failures": answers[name].check_failures,
            }
            for number, name in enumerate(order)
        ],
    }


def _vote_counts(evaluation: EvaluationFiles) -> dict[str, int]:
    counts = dict.fromkeys([*evaluation.contestants, TIE], 0)
    for row, vote in evaluation.votes.items():
        if row in evaluation.rows and vote.winner in counts:
            counts[vote.winner] += 1
    return counts


def _shuffled(row: str, answers: dict[str, EvaluatedAnswer]) -> list[str]:
    """The contestants in an order that differs from row to row, but not from view to view, and reveals nothing."""
    return sorted(answers, key=lambda name: blake2b(f"{row}\0{name}".encode(), digest_size=8).digest())


def _row_of(answer: EvaluatedAnswer) -> str:
    text = f"{answer.key}\0" if answer.key else f"{answer.prompt}\0{answer.repeat}\0"
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _summary(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = _decode_summary(read_whole(path, _MAX_BYTES))
    except (FileNotFoundError, NotJsonError):  # written when the evaluation ends
        return {}
    return found
