"""Scan the rows of a file: form, faults, empty and repeated rows; then iterate over its samples.

Every row is either a sample or reported with its place. Keeps a hash for each row and the first few row numbers of each
kind, never the rows. Questions and output are left to `prepare_file`.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

from asyncgen.dataset.files.forms import (
    CHAT_LINE,
    MESSAGE_PAIR,
    OPENAI_PREFERENCE,
    PAIR,
    PREFERENCES,
    Blank,
    FormError,
    answers_of,
    example_of,
    form_words,
    is_message_pair,
    no_form,
    pair_of,
    with_system,
)
from asyncgen.dataset.files.rows import open_rows
from asyncgen.dataset.files.sheets import about_empty_cells
from asyncgen.dataset.rules.chat import Fault
from asyncgen.dataset.rules.file import CHAT, DPO, CheckedFile, ExampleChecks, identity_of
from asyncgen.dataset.samples import Sample
from asyncgen.errors import AsyncgenError
from asyncgen.job.thoughts import begins_with_thoughts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncgen.dataset.files.forms import Example, Layout, WantedColumns
    from asyncgen.dataset.files.json_rows import FileRow
    from asyncgen.dataset.files.rows import SampleRows
    from asyncgen.dataset.token_counts import TokenCounter
    from asyncgen.providers.profiles import Profile

_SHOWN = 20
_NUMBERS_SHOWN = 10
_MOST_LAYOUTS = 1000  # rows have a few sets of names, or a hostile file has as many as rows
_AS_IT_IS = frozenset({CHAT_LINE, OPENAI_PREFERENCE})
_READING = frozenset({"json", "form"})
_BLANK_WORDS = {
    "completion": "an empty completion",
    "prompt": "no prompt (required in a chat)",
    "row": "neither prompt nor completion",
}


@dataclass(slots=True)
class RowNumbers:
    """The first numbers of some rows, and how many there are."""

    first: array[int] = field(default_factory=lambda: array("Q"))
    count: int = 0

    def add(self, number: int) -> None:
        self.count += 1
        if len(self.first) < _NUMBERS_SHOWN:
            self.first.append(number)

    def words(self, place: str) -> str:
        """The rows for a message, such as "lines 3, 7 and 12 more"."""
        more = self.count - len(self.first)
        shown = ", ".join(map(str, self.first)) + (f" and {more:,} more" if more else "")
        return f"{place}{'s' * (self.count > 1)} {shown}"


class FileScan:
    """One pass over a file.

    Args:
        file: the file.
        wanted: the columns to read.
        profile: of the provider that will train, whose rules apply.
        counter: counts the tokens of examples that are lines already.
        system: system message to add to chats without one; None to add none.

    Attributes:
        read: number of rows.
        repeated: rows with the same sample as an earlier one.
        blanks: number of rows without a sample, by what they lack.
        thoughts: rows whose answer begins with the model's reasoning.
        without_system: examples that `system` was added to.
        unused: names that no form uses.
        checked: faults and tokens; no tokens for pairs of texts, which are counted when they are written.
    """

    def __init__(
        self, file: SampleRows, wanted: WantedColumns, profile: Profile, counter: TokenCounter, system: str | None
    ) -> None:
        self.file = file
        self.read = 0
        self.repeated = 0
        self.blanks: dict[str, RowNumbers] = {}
        self.thoughts = RowNumbers()
        self.without_system = 0
        self.unused: dict[str, None] = {}
        self.checked = CheckedFile(file.path, place=file.place)
        self._profile = profile
        self._system = system
        self._wanted = wanted
        self._checks = ExampleChecks(self.checked, profile, counter)
        self._layouts: dict[tuple[str, ...], Layout] = {}
        self._forms: dict[str, RowNumbers] = {}
        self._seen: set[int] = set()  # 64-bit hashes: at 10^6 rows a false duplicate has odds of 1 to 10^7

    @property
    def form(self) -> str:
        """The result, after all rows were scanned."""
        return next(iter(self._forms))

    @property
    def format(self) -> str:
        return DPO if self.form in PREFERENCES else CHAT

    @property
    def fits(self) -> bool:
        """Whether the rows are training lines already, as they stand."""
        return self.file.lines and self.form in _AS_IT_IS

    @property
    def blank(self) -> int:
        """Rows that have no sample."""
        return sum(numbers.count for numbers in self.blanks.values())

    def run(self) -> None:
        """Read every row.

        Raises:
            AsyncgenError: rows have no known form or different ones, a provider would refuse some, or none is left.
        """
        for row in self.file.rows():
            self.read += 1
            if row.fault:
                self._fault(row.number, "json", row.fault)
                continue
            try:
                self._look_at(row, self._layout(row))
            except FormError as error:
                self._fault(row.number, "form", str(error))
        self._checks.end()
        self._refuse_mixture()
        self._refuse_faults()
        if not self._forms:
            raise self._nothing_left()

    def samples(self, *, unique: bool) -> Iterator[tuple[FileRow, Sample | Example]]:
        """Read the samples in another pass; repeated ones once if `unique`."""
        seen: set[int] = set()
        for row in self.file.rows():
            layout = self._layout(row)
            sample = self._sample(row, layout)
            if isinstance(sample, Blank):
                continue
            if unique:
                identity = hash((sample.prompt, sample.answer)) if isinstance(sample, Sample) else identity_of(sample)
                if identity in seen:
                    continue
                seen.add(identity or 0)
            yield row, sample

    def blank_words(self) -> Iterator[str]:
        """Sentences about the rows without a sample."""
        for part, numbers in self.blanks.items():
            has = f"{numbers.count:,} row{'s have' if numbers.count > 1 else ' has'}"
            yield f"{has} {_BLANK_WORDS[part]}: {numbers.words(self.file.place)}"
        if self.blanks and self.file.kind == "XLSX":
            as_disk_error = about_empty_cells(self.file.path)
            if as_disk_error:
                yield as_disk_error

    def _layout(self, row: FileRow) -> Layout:
        names = tuple(row.values)
        layout = self._layouts.get(names)
        if layout is None:
            layout = self._wanted.layout(names)
            self.unused.update(dict.fromkeys(layout.unused))
            if len(self._layouts) < _MOST_LAYOUTS:
                self._layouts[names] = layout
        if layout.form == PAIR and is_message_pair(row, layout):
            return replace(layout, form=MESSAGE_PAIR)
        return layout

    def _sample(self, row: FileRow, layout: Layout) -> Sample | Example | Blank:
        if layout.form == PAIR:
            pair = pair_of(row, layout)
            return pair if isinstance(pair, Blank) else Sample(*pair)
        if not layout.form:
            return Blank("row")
        example = example_of(row, layout)
        return with_system(example, self._system) if self._system and not isinstance(example, Blank) else example

    def _look_at(self, row: FileRow, layout: Layout) -> None:
        if not layout.form and row.values:
            self._note("", row.number)
            return
        sample = self._sample(row, layout)
        if isinstance(sample, Blank):
            self._note_blank(sample.part, row.number)
            return
        self._note(layout.form, row.number)
        if isinstance(sample, Sample):
            self._look_at_pair(row.number, sample)
            return
        self.without_system += layout.form in _AS_IT_IS and sample != row.values
        self.repeated += self._checks.add(row.number, sample)
        if any(map(begins_with_thoughts, answers_of(sample))):
            self.thoughts.add(row.number)

    def _look_at_pair(self, number: int, sample: Sample) -> None:
        identity = hash((sample.prompt, sample.answer))
        if identity in self._seen:
            self.repeated += 1
        else:
            self._seen.add(identity)
        if begins_with_thoughts(sample.answer):
            self.thoughts.add(number)

    def _note(self, form: str, number: int) -> None:
        numbers = self._forms.get(form)
        if numbers is None:
            numbers = self._forms[form] = RowNumbers()
        numbers.add(number)

    def _note_blank(self, part: str, number: int) -> None:
        self.blanks.setdefault(part, RowNumbers()).add(number)

    def _fault(self, number: int, rule: str, text: str) -> None:
        self.checked.findings.add(self.file.path, number, [Fault(rule, text)])

    def _refuse_mixture(self) -> None:
        if len(self._forms) <= 1 and "" not in self._forms:
            return
        if not set(self._forms) - {""}:
            raise self._no_form()
        parts = [
            f"{form or 'in none that is known'}: {numbers.words(self.file.place)}"
            for form, numbers in self._forms.items()
        ]
        raise AsyncgenError(
            f"the rows of {self.file.path} have {len(parts)} different formats; a training file needs one",
            cause="\n".join(parts),
            help_text="put each format into its own file",
            code="bad_data",
        )

    def _no_form(self) -> AsyncgenError:
        names = list(self.unused)
        if not names:
            names = list(dict.fromkeys(name for names in self._layouts for name in names))
        return no_form(self.file.path, names, self._wanted)

    def _refuse_faults(self) -> None:
        findings = self.checked.findings
        if not findings.fatal_count:
            return
        shown = [str(finding) for finding in findings.fatal[:_SHOWN]]
        if findings.fatal_count > len(shown):
            shown.append(f"... and {findings.fatal_count - len(shown):,} more")
        unread = all(finding.fault.rule in _READING for finding in findings.fatal)
        who = f"{self.file.path} cannot be read" if unread else f"{self._profile.title} would refuse {self.file.path}"
        raise AsyncgenError(
            f"{who}: {findings.fatal_count:,} fault{'s' * (findings.fatal_count > 1)}",
            cause="\n".join(shown),
            help_text=f"correct these {self.file.place}s, then run the same command again",
            code="bad_data" if unread else "refused_dataset",
        )

    def _nothing_left(self) -> AsyncgenError:
        if not self.read:
            return AsyncgenError(
                f"{self.file.path} has no rows", help_text=f"known formats: {form_words()}", code="bad_data"
            )
        if set(self.blanks) == {"prompt"}:
            return AsyncgenError(
                f"{self.file.path} has no prompts; chats need them",
                help_text="add prompts, or train on completions only with --format completion",
                code="bad_data",
            )
        return AsyncgenError(
            f"{self.file.path} has no row with a completion",
            cause="; ".join(self.blank_words()),
            help_text="each row needs a prompt and a completion; check that the columns are not shifted",
            code="bad_data",
        )


def first_form(path: Path, wanted: WantedColumns) -> str:
    """Find the form of a file by its first row that has a known one.

    Args:
        path: the file.
        wanted: the columns that the user named.

    Returns:
        The form; "" if the first rows have none.

    Raises:
        UsageError: as `open_rows`.
        AsyncgenError: as `open_rows` and its rows.
    """
    if path.suffix.lower() not in {".json", ".jsonl"}:
        return PAIR  # the legacy tool's business, which has its own errors
    for row in islice(open_rows(path, wanted).rows(), _MOST_LAYOUTS):
        form = wanted.layout(row.values).form
        if form:
            return form
    return ""
