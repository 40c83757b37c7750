"""The picture of a first run in the README shows what `asyncgen run` shows today.

`python tests/cli/test_first_run_picture.py docs/images` takes it again: it runs `asyncgen run` in a terminal of its
own, keeps what the screen shows in the end in `first-run.txt` (text with colours), and draws `first-run.svg` from it.
"""

from __future__ import annotations

import fcntl
import html
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyte
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

IMAGES = Path(__file__).parents[2] / "docs" / "images"
COLUMNS, LINES = 92, 60
_COLOURS = {"red": 31, "green": 32, "brown": 33, "blue": 34, "magenta": 35, "cyan": 36}
_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # they would be fetched from elsewhere


def screen_of(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> str:
    """What a terminal of `COLUMNS` by `LINES` shows when a command has ended: text with colours.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    with subprocess.Popen(
        command, cwd=folder, env={**environment, "TERM": "xterm-256color"}, stdin=slave, stdout=slave, stderr=slave
    ) as process:
        os.close(slave)
        while said := _read(master):
            stream.feed(said)
    os.close(master)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, "\n".join(screen.display))
    lines = [_line([screen.buffer[row][column] for column in range(COLUMNS)]) for row in range(LINES)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""


def _line(characters: Sequence[Any]) -> str:
    parts = []
    for (colour, bold), run in groupby(characters, lambda each: (each.fg, each.bold)):
        text = "".join(each.data for each in run)
        codes = [code for code in (1 if bold else None, _COLOURS.get(colour)) if code]
        parts.append(f"\x1b[{';'.join(map(str, codes))}m{text}\x1b[0m" if codes and text.strip() else text)
    return "".join(parts).rstrip()


def picture_of(screen: str) -> str:
    """A screen as SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    console.print(Text.from_ansi(screen.rstrip("\n")))
    return _FONTS.sub("", console.export_svg(title="asyncgen run", unique_id="first-run"))


def texts_of(picture: str) -> list[str]:
    """The lines of a picture, without colours."""
    lines: dict[str, str] = {}
    for y, text in re.findall(r'<text class="first-run-r\d+" x="[\d.]+" y="([\d.]+)"[^>]*>(.*?)</text>', picture):
        lines[y] = lines.get(y, "") + html.unescape(text).replace("\xa0", " ")
    return [line.rstrip() for line in lines.values()]


def outline_of(screen: str) -> list[str]:
    """The lines that begin at the left margin, without figures and names, and without what only some runs say."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", screen)
    lines = [line for line in plain.splitlines() if line[:1].strip()]
    lines = [re.sub(r" at https?://.*", " at N", line) for line in lines]  # who answers, and why
    figures = re.compile(r"ftjob-\w+|ft:\S+|\d[\d.,:]*(?: (?:m?s|min|[kM]?B)\b)?")
    lines = [re.sub("N(?: N)+", "N", figures.sub("N", line)) for line in lines]
    return [line for line in lines if not re.search("simulat|^local server:", line)]


def test_the_picture_shows_what_the_terminal_showed() -> None:
    shown = re.sub(r"\x1b\[[\d;]*m", "", (IMAGES / "first-run.txt").read_text(encoding="utf-8"))
    drawn = texts_of((IMAGES / "first-run.svg").read_text(encoding="utf-8"))
    assert [line for line in drawn if line] == [line for line in shown.splitlines() if line][: len(drawn)]


def test_the_terminal_shows_the_same_lines_today(
    environment: dict[str, str], simulated: Callable[..., str], tmp_path: Path
) -> None:
    """Only their beginnings can be compared: the answers, and so where lines are folded, are a simulation's here."""
    command = [sys.executable, "-m", "asyncgen", "run", "--provider", "local", "--base-url", simulated()]
    today = outline_of(screen_of(command, environment, tmp_path))
    assert today == outline_of((IMAGES / "first-run.txt").read_text(encoding="utf-8"))


def main(folder: Path) -> None:
    """Run, and write both files."""
    with tempfile.TemporaryDirectory() as work:
        screen = screen_of([sys.executable, "-m", "asyncgen", "run"], os.environ, Path(work))
    (folder / "first-run.txt").write_text(screen, encoding="utf-8")
    (folder / "first-run.svg").write_text(picture_of(screen), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
