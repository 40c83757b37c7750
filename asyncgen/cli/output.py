"""Output: results to stdout, everything else to stderr, and the layout of errors.

Text from a model or a server always passes `terminal.clean` here, whatever the caller did.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import sys
from typing import TYPE_CHECKING, Any, TextIO

import click
import orjson

from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.terminal import cells, clean, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console


_GAP = "  "
_WIDEST_LABEL = 20
DECLINED = "declined"
# Beginning of a line to the style of its first word.
_STYLES: dict[str, dict[str, Any]] = {
    "error:": {"fg": "red", "bold": True},
    "warning:": {"fg": "yellow", "bold": True},
    "note:": {"fg": "cyan"},
    "next:": {"fg": "green", "bold": True},
    "help:": {"fg": "green", "bold": True},
    "cause:": {"dim": True},
}
_COMMANDS = ("next:", "help:")


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> Iterator[str]:
    """Format rows as a table; as a block per row if the table is too wide.

    Args:
        headers: names of the columns.
        rows: texts, one per column.
        width: maximum columns; None for the width of stdout, which is unlimited in a pipe.
    """
    lines = [[clean(text) for text in line] for line in (headers, *rows)]
    widths = [max(cells(line[column]) for line in lines) for column in range(len(headers))]
    width = width_of(sys.stdout) if width is None else width
    if width and sum(widths) + len(_GAP) * (len(widths) - 1) > width and len(headers) > 1:
        yield from _blocks(lines[0], lines[1:], width)
        return
    for line in lines:
        padded = (text + " " * (column - cells(text)) for text, column in zip(line, widths, strict=True))
        yield _GAP.join(padded).rstrip()


def _blocks(headers: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """Format each row as a block: its first text, then a line for each of the others."""
    label = max(map(cells, headers[1:]))
    for first, *others in rows:
        yield wrapped(first, width)
        for header, text in zip(headers[1:], others, strict=True):
            if text:
                yield wrapped(f"  {header:{label}}  {text}", width, label + 2)


def say(text: str) -> None:
    """Print a line to stderr, unless --quiet is set."""
    if not is_quiet():
        _write_error(text)


def result(text: str) -> None:
    """Print a line of the result to stdout, wrapped on a terminal."""
    text, width = clean(text), width_of(sys.stdout)
    click.echo(wrapped(text, width, _hanging_indent(text)) if width else text)


_WIDEST_PAGE = 100  # columns; longer lines are hard to read


def show_page(markdown: str) -> None:
    """Show a page: laid out for a terminal, in a pager if it is longer than the screen; as Markdown in a pipe."""
    width = width_of(sys.stdout)
    if not width:
        click.echo(markdown.rstrip())
        return
    from rich.console import Console  # noqa: PLC0415 - with the next, costs a tenth of a second
    from rich.markdown import Markdown  # noqa: PLC0415

    written = io.StringIO()
    console = Console(
        file=written, width=min(width, _WIDEST_PAGE), force_terminal=has_colour(sys.stdout), highlight=False
    )
    console.print(Markdown(markdown, hyperlinks=False))
    text = written.getvalue()
    if text.count("\n") < shutil.get_terminal_size().lines:
        click.echo(text, nl=False)
    else:
        click.echo_via_pager(text)


def width_of(stream: TextIO) -> int:
    """Columns of the terminal that a stream goes to; 0 if it is not a terminal, so that nothing is wrapped."""
    try:
        return shutil.get_terminal_size((80, 24)).columns if stream.isatty() else 0
    except (AttributeError, ValueError):  # a closed stream
        return 0


def has_colour(stream: TextIO) -> bool:
    """Whether colour and weight may be used: on a terminal that knows them, unless NO_COLOR is set."""
    return bool(width_of(stream)) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _hanging_indent(text: str) -> int:
    """Indentation of continuation lines: below the text if the line begins with a label."""
    label = re.match(r" *\S+ {2,}(?=\S)|(?:error|cause|help|warning|note|next):\s+", text)
    return label.end() - (len(text) - len(text.lstrip(" "))) if label and label.end() <= _WIDEST_LABEL else 2


def json_result(answer: Any) -> None:
    """Print the result for --json: one object, as the last line on stdout."""
    click.echo(orjson.dumps(answer, option=orjson.OPT_NON_STR_KEYS).decode())


def show_error(error: AsyncgenError, *, as_json: bool) -> None:
    """Print an error: what happened, why, and the next step. An answered no is not an error."""
    _write_error(error.what if error.code == DECLINED else f"error: {error.what}")
    if error.cause:
        first, *rest = error.cause.splitlines()
        _write_error(f"cause: {first}")
        for line in rest:
            _write_error(f"       {line}")
    if error.help_text:
        _write_error(f"help:  {error.help_text}")
    if as_json:
        envelope = {"code": error.code, "message": error.what, "cause": error.cause, "help": error.help_text}
        json_result({"error": envelope})


def confirm(question: str, *, yes: bool, why: str, notice: str = "") -> None:
    """Ask for consent.

    Args:
        question: a question to answer with y or n on a terminal.
        yes: whether --yes was passed, which answers it.
        why: the reason, for the error if there is no terminal.
        notice: printed before the question, or without one if `yes`; the error has `why` in its place.

    Raises:
        UsageError: nobody can be asked, or the answer is no.
    """
    can_ask = sys.stdin.isatty() and sys.stderr.isatty()
    if notice and (yes or can_ask):
        say(notice)
    if yes:
        return
    if not can_ask:
        raise UsageError(why, help_text="add --yes to continue", code="needs_yes")
    if not _agreed(question):
        raise UsageError("nothing was sent", code=DECLINED)


def confirm_optional(question: str, *, yes: bool) -> bool | None:
    """Ask about something optional; None if nobody can be asked."""
    if yes:
        return True
    return _agreed(question) if sys.stdin.isatty() and sys.stderr.isatty() else None


def _agreed(question: str) -> bool:
    # Within a running event loop the first Ctrl-C would only be noted, and the question would still wait for an answer.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        question, width = clean(question), width_of(sys.stderr)
        return click.confirm(wrapped(question, width) if width else question, default=False, err=True)
    finally:
        signal.signal(signal.SIGINT, before)


def this_command() -> str:
    """The present command line, for the user to repeat: the same command resumes."""
    return shlex.join(["asyncgen", *sys.argv[1:]])


def error_console() -> Console:
    """The standard error stream for live blocks and tables; imported late, since it costs a tenth of a second."""
    from rich.console import Console  # noqa: PLC0415

    return Console(stderr=True, highlight=False, markup=False, emoji=False, no_color=not has_colour(sys.stderr))


def is_live() -> bool:
    """Whether a live display is possible: stderr is a terminal that can move its cursor, and --quiet is not set."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not is_quiet()


def is_quiet() -> bool:
    context = click.get_current_context(silent=True)
    return bool(context and context.find_root().meta.get("asyncgen.quiet"))


def is_verbose() -> bool:
    """Whether --verbose asks for details that are otherwise only in the files."""
    context = click.get_current_context(silent=True)
    return bool(context and context.find_root().meta.get("asyncgen.verbose"))


def _write_error(text: str) -> None:
    # A closed terminal must not end a run: the answers still have to be written.
    with contextlib.suppress(OSError):
        # Not through click, which bypasses the live display's replacement of stderr.
        print(_styled(clean(text)), file=sys.stderr, flush=True)


def _styled(text: str) -> str:
    """A line for stderr, wrapped and with its first word coloured on a terminal.

    A command to be copied is not wrapped: the terminal does that, and joins it again when it is copied.
    """
    width = width_of(sys.stderr)
    first = text.split(" ", 1)[0]
    if width and not (first in _COMMANDS and "asyncgen " in text):
        text = wrapped(text, width, _hanging_indent(text))
    if first in _STYLES and has_colour(sys.stderr):
        return click.style(first, **_STYLES[first]) + text[len(first) :]
    return text
