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
        id: names the line, so that it can be undone.
        created: Unix seconds.
        answers: key of a row to the digest of the answer that was judged.
        of: the id of the line that an "undo" takes back.
    """

    id: str
    created: int
    action: Action
    answers: dict[str, str] = {}
    of: str = ""


@dataclass(frozen=True, slots=True)
class Reviews:
    """Where all decisions led to.

    Attributes:
        rejected: key to the digest of the answer that was rejected.
        seen: likewise, of answers that somebody looked at.
        undoable: ids of the lines that can be undone, oldest first.
    """

    rejected: Mapping[str, str] = field(default_factory=dict)
    seen: Mapping[str, str] = field(default_factory=dict)
    undoable: tuple[str, ...] = ()

    def is_rejected(self, key: str, completion: str) -> bool:
        """Whether somebody rejected this answer of the row."""
        found = self.rejected.get(key)
        return found is not None and found == answer_digest(completion)


NO_REVIEWS = Reviews()

decode_review = decoder(Review)
_encode = msgspec.json.Encoder().encode


def answer_digest(completion: str) -> str:
    """What names an answer among those that a row may have had."""
    return blake2b(completion.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()


def read_reviews(folder: Path) -> Reviews:
    """What was decided in the run at `folder`; nothing where nobody looked yet.

    Raises:
        BadLineError: a line is no review.
        DiskError: the file cannot be read.
    """
    return folded(review for _, review in read_rows(folder / REVIEWED_NAME, decode_review))


def folded(reviews: Iterable[Review]) -> Reviews:
    """The last decision on each answer, without those that were undone."""
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
    """Append a decision; it is safe from a power loss when this returns.

    Raises:
        RunInUseError: another page writes it at this moment.
        DiskError: it could not be written.
    """
    with closing(LineFile(folder / REVIEWED_NAME)) as file:
        file.append(_encode(review) + b"\n")
        file.sync()
