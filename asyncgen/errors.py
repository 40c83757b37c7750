"""The errors that end a command, the exit code of each, and `nearest` for messages about a misspelt name.

    AsyncgenError            1  anything else that was foreseen
    ├─ UsageError            2  an option or argument that cannot be
    │  └─ JobFileError       2  a job file; carries every problem found in it, not the first only
    ├─ IncompleteError       3  finished, but not everything succeeded (rows, a fine-tuning job)
    ├─ AuthError             4  the key, or what it may do
    ├─ QuotaError            5  the provider's quota or our own budget: resumable
    ├─ DiskError             6  the run could not be written
    └─ RunInUseError         7  another process writes the run

A failed request is data (`records.Failure`), and a bug is a crash: neither is here. The command line prints `what`,
`cause` and `help_text`, and exits with `exit_code`.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class AsyncgenError(Exception):
    """What happened, why, and what to do next.

    Args:
        what: one sentence, without a full stop at its end.
        cause: the reason, where it adds something; else None.
        help_text: the next step, best a command that can be copied; else None.
        code: a stable word for machines; None stands for the class's own.
    """

    exit_code = 1
    code = "error"

    def __init__(
        self, what: str, *, cause: str | None = None, help_text: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.cause = cause
        self.help_text = help_text
        if code is not None:
            self.code = code


class UsageError(AsyncgenError):
    """An option, argument or setting that cannot be."""

    exit_code = 2
    code = "usage"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a job file.

    Attributes:
        key: the dotted place, such as `grid.city`; "" for the file as a whole.
        message: what was found and what was expected.
        suggestion: the nearest valid name, or None.
        line: 1-based, where it is known.
        file: the file it stands in, as the user wrote it.
    """

    key: str
    message: str
    suggestion: str | None = None
    line: int | None = None
    file: str = ""

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part)
        hint = f" (did you mean {self.suggestion!r}?)" if self.suggestion else ""
        return ": ".join(part for part in (place, self.key, self.message) if part) + hint


class JobFileError(UsageError):
    """A job file with at least one problem; all of them are in `problems`."""

    code = "job_file"

    def __init__(self, what: str, problems: tuple[Problem, ...], *, help_text: str | None = None) -> None:
        super().__init__(what, cause="\n".join(str(problem) for problem in problems), help_text=help_text)
        self.problems = problems


class IncompleteError(AsyncgenError):
    """The work ended, but some of it failed."""

    exit_code = 3
    code = "incomplete"


class AuthError(AsyncgenError):
    """The key is missing or wrong, or may not do what was asked."""

    exit_code = 4
    code = "auth"


class QuotaError(AsyncgenError):
    """The provider's quota or the run's budget is used up; the same command goes on later."""

    exit_code = 5
    code = "quota"


class DiskError(AsyncgenError):
    """The run directory could not be read or written."""

    exit_code = 6
    code = "io"


class RunInUseError(AsyncgenError):
    """Another process is writing this run."""

    exit_code = 7
    code = "in_use"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The valid name most like `name`, or None when none is like it."""
    return next(iter(get_close_matches(name, list(names), 1)), None)
