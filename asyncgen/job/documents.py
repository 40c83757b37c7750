"""Text files as rows: `file`, `part` and `text`, one row for each part.

Splits at paragraphs, and keeps a heading with the text after it. Keeps a few bytes a file, never the texts.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from glob import glob
from hashlib import blake2b
from pathlib import Path

from asyncgen.job.cells import TableError
from asyncgen.job.tables import Row, Table
from asyncgen.job.text_file import open_file, read_text

COLUMNS = ("file", "part", "text")
_BLANK_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
_WORD = re.compile(r"\S+")
_NOT_TEXT = frozenset({".pdf", ".docx", ".pptx", ".xlsx", ".odt", ".epub"})


def parts_of(text: str, split_words: int | None, overlap_words: int = 0) -> list[str]:
    """A text in parts of about so many words.

    Args:
        text: of a file.
        split_words: a part has at most so many, unless one paragraph alone has more; None: the text is one part.
        overlap_words: each part but the first begins with so many words of the one before.
    """
    paragraphs = [each.strip("\n") for each in _BLANK_LINES.split(text.strip()) if each.strip()]
    if split_words is None or not paragraphs:
        return ["\n\n".join(paragraphs)] if paragraphs else []
    groups: list[list[str]] = [[]]
    words = 0
    for paragraph in paragraphs:
        more = len(paragraph.split())
        if groups[-1] and words + more > split_words:
            moved = _headings_at_end(groups[-1])
            groups.append(moved)
            words = sum(len(each.split()) for each in moved) + overlap_words
        groups[-1].append(paragraph)
        words += more
    texts = ["\n\n".join(group) for group in groups]
    heads = ["", *(_last_words(before, overlap_words) for before in texts)]
    return [f"{head}\n\n{text}" if head else text for head, text in zip(heads, texts, strict=False)]


def _headings_at_end(group: list[str]) -> list[str]:
    """Take the headings off the end of a part, but leave something in it."""
    moved: list[str] = []
    while len(group) > 1 and group[-1].startswith("#") and "\n" not in group[-1]:
        moved.insert(0, group.pop())
    return moved


def _last_words(text: str, count: int) -> str:
    begins = [match.start() for match in _WORD.finditer(text)]
    return text[begins[-count] if count <= len(begins) else 0 :] if count and begins else ""


class Documents:
    """The parts of all files that match a pattern, in the order of the files' names.

    Args:
        folder: where a relative pattern starts.
        pattern: such as `docs/**/*.md`.
        split_words: see `parts_of`.
        overlap_words: likewise.

    Raises:
        TableError: no file matches, none holds text, or one cannot be read; tells which.
    """

    columns: tuple[str, ...] = COLUMNS
    nested: frozenset[str] = frozenset()

    def __init__(self, folder: Path, pattern: str, split_words: int | None, overlap_words: int) -> None:
        self.path = folder
        self._split = (split_words, overlap_words)
        try:
            found = sorted(glob(pattern, root_dir=folder, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute ones
        except (ValueError, re.error):
            raise TableError("no pattern of file names") from None
        self._files = [name for name in found if (folder / name).is_file()]
        if not self._files:
            raise TableError("no file matches it")
        self._ends = array("Q")
        self._held: tuple[int, list[str]] = (-1, [])
        for number in range(len(self._files)):
            self._ends.append((self._ends[-1] if self._ends else 0) + len(self._parts(number)))
        if not len(self):
            raise TableError("the files that match it hold no text")

    def table(self, columns: Sequence[str], needed: Collection[str], *, blanks: bool = False) -> Table:  # noqa: ARG002 - all are there, always
        return self

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, place: int) -> Row:
        number = bisect_right(self._ends, place)
        if self._held[0] != number:
            self._held = (number, self._parts(number))
        part = place - (self._ends[number - 1] if number else 0)
        return self._row(number, part, self._held[1][part])

    def __iter__(self) -> Iterator[Row]:
        for number in range(len(self._files)):
            for part, text in enumerate(self._parts(number)):
                yield self._row(number, part, text)

    def digest(self) -> str:
        digest = blake2b(repr(self._split).encode(), digest_size=16)
        for name in self._files:
            with open_file(self.path / name) as handle:
                digest.update(f"{name}\0".encode(errors="surrogateescape") + handle.read())
        return digest.hexdigest()

    def _row(self, number: int, part: int, text: str) -> Row:
        name = self._files[number].replace("\\", "/")
        return (name.encode(errors="surrogateescape").decode(errors="replace"), str(part + 1), text)

    def _parts(self, number: int) -> list[str]:
        name = self._files[number]
        try:
            text = read_text(self.path / name)
        except OSError as error:
            raise TableError(f"{name}: {error.strerror}") from None
        except TableError as error:
            if Path(name).suffix.lower() in _NOT_TEXT:
                raise TableError(f"{name} is no text file; convert it to Markdown first") from None
            raise TableError(f"{name}{f', line {error.line}' if error.line else ''}: {error}") from None
        return parts_of(text.replace("\r\n", "\n").replace("\r", "\n"), *self._split)
