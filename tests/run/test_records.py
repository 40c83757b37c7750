"""Facts about the lines of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asyncgen.errors import DiskError
from asyncgen.run import jsonl
from asyncgen.run.jsonl import LineFile
from asyncgen.run.records import decode_failure, decode_record, encode_line
from asyncgen.run.state import VERSION, JobState, RunState, Spend, read_state, write_state

if TYPE_CHECKING:
    from collections.abc import Callable

LINES = Path(__file__).with_name("lines_of_0.1.jsonl").read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(("line", "decode"), [(LINES[0], decode_record), (LINES[1], decode_failure)])
def test_a_line_of_the_first_release_is_written_today_byte_for_byte(line: bytes, decode: Callable[..., object]) -> None:
    assert encode_line(decode(line)) == line  # type: ignore[arg-type]


def test_a_line_that_could_not_be_read_again_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 64)
    file = LineFile(tmp_path / "records.jsonl")
    try:
        file.append(b'{"a":1}\n' * 20)
        with pytest.raises(DiskError, match="a line of 75 bytes"):
            file.append(b'{"a":1}\n' + b'{"a":"' + b"x" * 66 + b'"}\n')
        file.append(b'{"a":2}\n')
    finally:
        file.close()
    assert (tmp_path / "records.jsonl").read_bytes() == b'{"a":1}\n' * 20 + b'{"a":2}\n'


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (f'"version": {VERSION}', '"version": 0'),
        (f'"version": {VERSION}', '"version": -1'),
        ('"records": 7', '"records": -5'),
        ('"cost_usd": 0.5', '"cost_usd": -0.05'),
        ('"cost_usd": 0.5', '"cost_usd": 1e400'),
        ('"requests": 9', '"requests": -1'),
        ('"stale": 0', '"stale": -2'),
        ('"prompt_tokens": 0', '"prompt_tokens": -1'),
        ('"tried": {}', '"tried": {"zz": [1, 0, 0, 0]}'),
        ('"tried": {}', '"tried": {"0a1b2c3d4e5f60718293a4b5c6d7e8f9": [-1, 0, 0, 0]}'),
    ],
)
def test_a_figure_that_cannot_be_is_damage(tmp_path: Path, place: str, value: str) -> None:
    path = tmp_path / "run.json"
    write_state(path, RunState(job=JobState(name="ads", requests=9), spend=Spend(records=7, cost_usd=0.5)))
    assert read_state(path).spend.records == 7
    text = path.read_text()
    assert place in text
    path.write_text(text.replace(place, value, 1))
    with pytest.raises(DiskError) as raised:
        read_state(path)
    assert (raised.value.code, "asyncgen repair" in (raised.value.help_text or "")) == ("bad_state", True)
