"""Facts about reading which rows are settled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.generate.journal.settled import key_number, read_settled
from asyncgen.run.directory import RunDirectory
from asyncgen.run.jsonl import BadLineError
from asyncgen.run.records import decode_record

REST = (
    b',"index":1,"repeat":0,"variables":{},"prompt":"p","completion":"c","model":"m","finish_reason":"stop","usage":{},'
    b'"attempts":1,"check_failures":[],"latency_s":0.5,"created":1'
)
KEYS = st.binary(min_size=16, max_size=16).map(bytes.hex)
LINES = st.one_of(
    KEYS.map(lambda key: b'{"key":"%s"%s}' % (key.encode(), REST)),
    KEYS.map(lambda key: b'{"request_id": null, "key": "%s"%s} ' % (key.upper().encode(), REST)),
    KEYS.map(lambda key: b'{"key":"%s","index":1}' % key.encode()),  # nothing else of a record
    KEYS.map(lambda key: b'{"key":"%s"%s,"x":"\xff"}' % (key.encode(), REST)),  # no UTF-8 where nobody looks
    KEYS.map(lambda key: b'{"key":"%s"%s}' % (key.encode(), REST.replace(b'"c"', b'"\xff"'))),
    KEYS.map(lambda key: b'{"key":"%s"%s,"x":%s}' % (key.encode(), REST, b"[" * 5000 + b"]" * 5000)),  # too deep
    KEYS.map(lambda key: b'{"key":"%s"}{"key":"%s"}' % (key.encode(), key[::-1].encode())),  # two on a line
    KEYS.map(lambda key: b'{"key":\n"%s"}' % key.encode()),  # one on two lines
    KEYS.map(lambda key: b'{"key":"%s"}' % (key[:30] + "  ").encode()),  # white space in place of digits
    KEYS.map(lambda key: b'{"key":"%s"}' % key[:30].encode()),
    st.sampled_from([b"", b"  ", b"{}", b'{"key":1}', b"no json", b'{"key":"\xff"}']),
)


def read_plainly(content: bytes) -> tuple[list[str], list[int]]:
    """The keys, read in the plainest way; and the numbers of the lines that are not good."""
    keys: list[str] = []
    bad: list[int] = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            key = decode_record(line).key
            is_good = len(bytes.fromhex(key)) * 2 == len(key) == 32 and key.lower() not in keys
        except ValueError:
            bad.append(number)
            continue
        keys += [key.lower()] if is_good else []
        bad += [] if is_good else [number]
    return keys, bad


@given(lines=st.lists(LINES, max_size=8))
def test_keys_are_those_that_a_reader_line_by_line_finds(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    directory = RunDirectory(tmp_path_factory.mktemp("run"))
    content = b"".join(line + b"\n" for line in lines)
    directory.records.write_bytes(content)
    keys, bad = read_plainly(content)
    if bad:
        with pytest.raises(BadLineError) as refused:
            read_settled(directory)
        assert refused.value.number in bad
    else:
        settled = read_settled(directory).settled
        assert len(settled) == len(keys)
        assert all(settled.has(key_number(key)) for key in keys)


def test_a_bad_line_far_into_a_large_file_is_named(tmp_path: Path, key_of_row: Callable[[int], bytes]) -> None:
    directory = RunDirectory(tmp_path)
    lines = [b'{"key":"%s"%s}\n' % (key_of_row(row).hex().encode(), REST) for row in range(20_000)]
    lines[15_000] = b'{"key":"12"}\n'
    directory.records.write_bytes(b"".join(lines))
    with pytest.raises(BadLineError) as refused:
        read_settled(directory)
    assert refused.value.number == 15_001


def test_a_key_that_stands_twice_far_apart_is_named(tmp_path: Path, key_of_row: Callable[[int], bytes]) -> None:
    directory = RunDirectory(tmp_path)
    lines = [b'{"key":"%s"%s}\n' % (key_of_row(row).hex().encode(), REST) for row in range(20_000)]
    directory.records.write_bytes(b"".join([*lines, lines[3]]))
    with pytest.raises(BadLineError, match="line 20001"):
        read_settled(directory)
