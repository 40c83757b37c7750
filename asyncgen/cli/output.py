"""What a person or a script sees: results on stdout, everything else on stderr.

Owns the two streams and the look of an error. Does not know any command. Text that came from a model or a server
passes `terminal.clean` here, whatever the caller did.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
import orjson

from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.terminal import clean

if TYPE_CHECKING:
    from rich.console import Console


_GAP = "  "


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A line of headers and one for each row; columns are as wide as their widest text."""
    lines = [headers, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        yield _GAP.join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()


def say(text: str) -> None:
    """A line for the person who watches; silent with --quiet."""
    if not is_quiet():
        _write_error(text)


def result(text: str) -> None:
    """A line of what was asked for."""
    click.echo(clean(text))


def json_result(answer: Any) -> None:
    """The answer of a command that was given --json: one object on one line, the last one on stdout."""
    click.echo(orjson.dumps(answer, option=orjson.OPT_NON_STR_KEYS).decode())


def show_error(error: AsyncgenError, *, as_json: bool) -> None:
    """What happened, why, and what to do next."""
    _write_error(f"error: {error.what}")
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


def confirm(question: str, *, yes: bool, why: str) -> None:
    """Go on only with consent.

    Args:
        question: answered with y or n on a terminal.
        yes: --yes was given: the answer is there.
        why: what makes the question necessary, for the error off a terminal.

    Raises:
        UsageError: nobody can be asked, or the answer is no.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(why, help_text="add --yes to go on", code="needs_yes")
    if not _agreed(question):
        raise UsageError("stopped, as you asked; nothing was sent", code="declined")


def offered(question: str, *, yes: bool) -> bool:
    """Whether something that may as well be left is wanted: not, where nobody can be asked."""
    if yes:
        return True
    return sys.stdin.isatty() and sys.stderr.isatty() and _agreed(question)


def _agreed(question: str) -> bool:
    # Within a running loop the first Ctrl-C would only be noted, and the question go on waiting for its answer.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return click.confirm(clean(question), default=False, err=True)
    finally:
        signal.signal(signal.SIGINT, before)


def this_command() -> str:
    """The command line as it was given, to be copied: given again, it goes on."""
    return shlex.join(["asyncgen", *sys.argv[1:]])


def error_console() -> Console:
    """The standard error stream for live blocks and tables; imported late, since it costs a tenth of a second."""
    from rich.console import Console  # noqa: PLC0415

    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def is_live() -> bool:
    """Whether a live block can be drawn: stderr is a terminal that moves its cursor, and nobody asked for silence."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not is_quiet()


def is_quiet() -> bool:
    context = click.get_current_context(silent=True)
    return bool(context and context.find_root().meta.get("asyncgen.quiet"))


def _write_error(text: str) -> None:
    # A terminal that is gone must not end a run: the answers still have to be written down.
    with contextlib.suppress(OSError):
        # Not through click, which finds a way past the live block's stand-in for stderr.
        print(clean(text), file=sys.stderr, flush=True)
