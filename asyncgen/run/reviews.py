"""`reviewed.jsonl`: what a person decided on answers (rejected, restored, seen). Append-only, one writer at a time.

A line names an answer by its row's key and a digest of its text, so that the answer to a repeated request is reviewed
anew. Needs no run lock: it may be written while the run is. Display, and what follows from a rejection, are left to the
callers.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal

import msgspec

from asyncgen.json_text import decoder
from asyncgen.run.jsonl import LineFile, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

REVIEWED_NAME = "reviewed.jsonl"
_DIGEST_BYTES = 8

Action = Literal["reject", "restore", "seen", "undo"]


class Review(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One decision on any number of answers: a line of `reviewed.jsonl`.

    Attributes:
        id: identifies the line, so that it can be undone.
        created: Unix seconds.
        action: what was decided.
        answers: key of each row to the digest of the answer that was judged.
        of: id of the line that an "undo" cancels; "" for other actions.
    """

    id: str
    created: int
    action: Action
    answers: dict[str, str] = {}
    of: str = ""


@dataclass(frozen=True, slots=True)
class Reviews:
    """The result of all decisions.

    Attributes:
        rejected: key of a row to the digest of its rejected answer.
        seen: key of a row to the digest of its answer that somebody looked at.
        undoable: ids of the lines that can be undone, oldest first.
    """

    rejected: Mapping[str, str] = field(default_factory=dict)
    seen: Mapping[str, str] = field(default_factory=dict)
    undoable: tuple[str, ...] = ()

    def is_rejected(self, key: str, completion: str) -> bool:
        """Check whether somebody rejected an answer.

        Args:
            key: of the row.
            completion: the answer; another answer to the same row is judged anew.

        Returns:
            Whether the last decision on this answer rejects it.
        """
        found = self.rejected.get(key)
        return found is not None and found == answer_digest(completion)


NO_REVIEWS = Reviews()

decode_review = decoder(Review)
_encode = msgspec.json.Encoder().encode


def answer_digest(completion: str) -> str:
    """Return a short hash of an answer, which tells the answers of one row apart.

    Args:
        completion: the answer.
    """
    return blake2b(completion.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()


def read_reviews(folder: Path) -> Reviews:
    """Read the decisions on a run.

    Args:
        folder: the run directory; without `reviewed.jsonl` there are no decisions.

    Returns:
        The last decision on each answer.

    Raises:
        BadLineError: a line is not a review.
        DiskError: the file cannot be read.
    """
    return current_reviews(review for _, review in read_rows(folder / REVIEWED_NAME, decode_review))


def current_reviews(reviews: Iterable[Review]) -> Reviews:
    """Apply decisions in order.

    Args:
        reviews: the lines of the file.

    Returns:
        The last decision on each answer, without those that were undone.
    """
    lines = list(reviews)
    undone = {review.of for review in lines if review.action == "undo"}
    rejected: dict[str, str] = {}
    seen: dict[str, str] = {}
    undoable = []
    for review in lines:
        if review.action == "undo" or review.id in undone:
            continue
        if review.action == "seen":
            seen |= review.answers
            continue
        undoable.append(review.id)
        if review.action == "reject":
            rejected |= review.answers
        else:
            for key in review.answers:
                rejected.pop(key, None)
    return Reviews(rejected, seen, tuple(undoable))


def add_review(folder: Path, review: Review) -> None:
    """Append a decision, and sync it to disk.

    Args:
        folder: the run directory.
        review: the decision.

    Raises:
        RunInUseError: another page is writing the file at this moment.
        DiskError: it could not be written.
    """
    with closing(LineFile(folder / REVIEWED_NAME)) as file:
        file.append(_encode(review) + b"\n")
        file.sync()
