"""The errors that end a command, the exit code of each, and what messages are made of: `command_line`, `nearest`.

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

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class AsyncgenError(Exception):
    """Base class of the errors that asyncgen raises on purpose.

    Args:
        what: what happened, as one sentence without a full stop.
        cause: the reason; None if `what` says it.
        help_text: the next step, best a command that can be copied; None if there is none.
        code: stable identifier for programs; None for that of the class.

    Example:
        >>> try:
        ...     open_run("runs/nowhere")
        ... except AsyncgenError as error:
        ...     error.code, error.exit_code
        ('not_a_run', 2)
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
    """An invalid option, argument or setting.

    Example:
        >>> try:
        ...     load_job("campaign.toml", provider="nobody")
        ... except UsageError as error:
        ...     "nobody" in error.what
        True
    """

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
    r"""Mistakes in a job file.

    Args:
        what: what happened, as one sentence without a full stop.
        problems: every mistake that was found, at least one.
        help_text: the next step; None if there is none.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("typo.toml").write_text("name = 'typo'\n[gird]\ncity = ['Bonn']\n[prompt]\nuser = 'Hello'\n")
        >>> try:
        ...     load_job("typo.toml")
        ... except JobFileError as error:
        ...     error.problems[0].key, error.problems[0].line, error.problems[0].suggestion
        ('gird', 2, 'grid')
    """

    code = "job_file"

    def __init__(self, what: str, problems: tuple[Problem, ...], *, help_text: str | None = None) -> None:
        super().__init__(what, cause="\n".join(str(problem) for problem in problems), help_text=help_text)
        self.problems = problems


class IncompleteError(AsyncgenError):
    """The work ended, but a part of it failed: some rows, or a fine-tuning job.

    Example:
        >>> IncompleteError("the job failed").exit_code
        3
    """

    exit_code = 3
    code = "incomplete"


class AuthError(AsyncgenError):
    """The API key is missing or wrong, or lacks a permission.

    Example:
        >>> AuthError("the key is refused").code
        'auth'
    """

    exit_code = 4
    code = "auth"


class QuotaError(AsyncgenError):
    """The provider's quota or the run's budget is used up. The run can be resumed.

    Example:
        >>> QuotaError("max_cost is reached").exit_code
        5
    """

    exit_code = 5
    code = "quota"


class DiskError(AsyncgenError):
    """A file of the run could not be read or written.

    Example:
        >>> DiskError("records.jsonl cannot be written").code
        'io'
    """

    exit_code = 6
    code = "io"


class RunInUseError(AsyncgenError):
    """Another process is writing the run.

    Example:
        >>> RunInUseError("the run is in use").exit_code
        7
    """

    exit_code = 7
    code = "in_use"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Find the valid name that is most like a misspelt one.

    Args:
        name: the name that was given.
        names: the valid names.

    Returns:
        The most similar name; None if no name is similar.
    """
    from difflib import get_close_matches  # noqa: PLC0415 - slow to import, and needed after a mistake only

    return next(iter(get_close_matches(name, list(names), 1)), None)


def command_line(name: str, *arguments: str | Path | None) -> str:
    """Return a command line that can be copied into a shell, whatever blanks and quotes its arguments have.

    In a text, such a line is in backticks, or ends before three blanks, a line's end, a comma or a semicolon.

    Args:
        name: of the command, without `asyncgen`.
        arguments: of the command; None is left out.

    Example:
        >>> command_line("prepare", Path("my run"))
        "asyncgen prepare 'my run'"
    """
    return shlex.join(["asyncgen", *name.split(), *(_word(each) for each in arguments if each is not None)])


def _word(argument: str | Path) -> str:
    is_like_option = isinstance(argument, Path) and str(argument).startswith("-")
    return f"./{argument}" if is_like_option else str(argument)
