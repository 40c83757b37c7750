"""Facts about the one reading of JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.errors import AsyncgenError
from asyncgen.finetune.follow import past_events
from asyncgen.finetune.json_calls import decoded
from asyncgen.generate.batch.batched_keys import read_batch_rows
from asyncgen.generate.batch.files import key_of_line, read_output_line
from asyncgen.generate.journal.repair import read_rejected, repair_run
from asyncgen.generate.journal.settled import read_settled
from asyncgen.json_text import NotJsonError, decode_json, decode_loosely, decoder
from asyncgen.providers.local_server import server_info
from asyncgen.run.directory import RunDirectory
from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import Record, Usage, decode_failure, decode_record, encode_line
from asyncgen.run.state import JobState, RunState, read_state, write_state
from asyncgen.serve.data_folder import read_whole
from asyncgen.serve.training.protocol import decode_message

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEEP = b"[" * 100_000 + b"]" * 100_000
ODD = {
    "deep": DEEP,
    "5,000 digits": b"9" * 5000,
    "1e400": b"1e400",
    "bad UTF-8": b'"\xff"',
    "lone surrogate": b'"\\ud83d"',
    "NaN": b"NaN",
    "torn": b'{"a":',
}
odd = pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())


class Shape(msgspec.Struct):
    key: str
    count: int = 0


def record(number: int) -> Record:
    return Record(
        key=f"{number + 1000:016x}" * 2, index=number, repeat=0, variables={"city": "Bonn"}, prompt="Bonn",
        completion="An ad.", model="m",
        finish_reason="stop", usage=Usage(1, 0, 1, 0), attempts=1, check_failures=[], latency_s=0.1,
        created=1,
    )  # fmt: skip


@odd
def test_whatever_is_no_json_is_one_error(text: bytes) -> None:
    line = b'{"key":%b,"count":%b}' % (text, text)
    for read in (decode_json, decode_loosely, decoder(Shape), decoder(Any), lambda each: decode_json(each, Shape)):
        with pytest.raises(NotJsonError) as caught:
            read(line)
        assert str(caught.value)


@given(st.binary() | st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_json_or_not_json(content: bytes) -> None:
    for read in (decode_json, decode_loosely, decoder(Shape)):
        try:
            read(content)
        except NotJsonError:
            continue


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_json_is_read_as_it_was_written(value: Any) -> None:
    try:
        text = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a lone surrogate
        return
    assert decode_json(text) == value
    assert decode_loosely(text) == value


def of_file(read: Callable[[Path], object]) -> Callable[[Path, bytes], object]:
    def reader(folder: Path, text: bytes) -> object:
        path = folder / "file.json"
        path.write_bytes(text + b"\n")
        return read(path)

    return reader


def of_run(name: str, read: Callable[[RunDirectory], object]) -> Callable[[Path, bytes], object]:
    def reader(folder: Path, text: bytes) -> object:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(text + b"\n")
        return read(RunDirectory(folder))

    return reader


def of_bytes(read: Callable[[bytes], object]) -> Callable[[Path, bytes], object]:
    return lambda _folder, text: read(text)


READERS: dict[str, Callable[[Path, bytes], object]] = {
    "records": of_run("records.jsonl", lambda run: list(read_rows(run.records, decode_record))),
    "settled": of_run("records.jsonl", read_settled),
    "failures": of_run("failures.jsonl", lambda run: list(read_rows(run.failures, decode_failure))),
    "settled failures": of_run("failures.jsonl", read_settled),
    "rejected": of_run("rejected.jsonl", lambda run: read_rejected(run.rejected)),
    "events": of_run("events.jsonl", lambda run: past_events(run.events, "job")),
    "state": of_file(read_state),
    "batch rows": of_file(lambda path: list(read_batch_rows(path))),
    "batch output": of_bytes(read_output_line),
    "batch output key": of_bytes(key_of_line),
    "tuning API": of_bytes(lambda text: decoded(text, Shape, "look")),
    "server store": of_file(lambda path: read_whole(path, Shape)),
    "server info": of_run("server.json", lambda run: server_info(run.path)),
    "trainer": of_bytes(decode_message),
}


@pytest.mark.parametrize("where", ["whole", "field", "unknown field"])
@odd
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_no_reader_takes_odd_bytes_for_a_fault_of_its_own(
    tmp_path: Path, reader: Callable[[Path, bytes], object], text: bytes, where: str
) -> None:
    key = b"0" * 32
    lines = {"whole": text, "field": b'{"key":%b,"custom_id":%b,"id":%b}' % (text, text, text)}
    lines["unknown field"] = b'{"key":"%b","custom_id":"%b","version":2,"x":%b}' % (key, key, text)
    try:
        reader(tmp_path, lines[where])
    except (AsyncgenError, NotJsonError) as error:
        assert str(error)  # noqa: PT017 - any of these two is a foreseen error


@odd
def test_repair_keeps_all_other_lines_whatever_one_holds(tmp_path: Path, text: bytes) -> None:
    directory = RunDirectory(tmp_path)
    write_state(directory.state, RunState(job=JobState(name="ads")))
    good = [encode_line(record(number)) for number in range(20)]
    bad = encode_line(record(99)).removesuffix(b"}\n") + b',"x":%b}\n' % text
    directory.records.write_bytes(b"".join([*good[:10], bad, *good[10:]]))
    repaired = repair_run(tmp_path)
    kept = [line for line in directory.records.read_bytes().splitlines(keepends=True) if line in good]
    assert kept == good
    assert len(read_settled(directory).settled) == 20 + (not repaired.files[0].bad)


@odd
def test_repair_sets_a_damaged_run_json_aside(tmp_path: Path, text: bytes) -> None:
    directory = RunDirectory(tmp_path)
    directory.state.write_bytes(b'{"version":2,"asyncgen":"1","job":%b}' % text)
    directory.records.write_bytes(encode_line(record(1)))
    assert repair_run(tmp_path).state_made_anew
    assert len(read_settled(directory).settled) == 1
