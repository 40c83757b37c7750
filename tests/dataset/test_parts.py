"""A run that is read in parts gives what it gives when it is read whole; a process that dies leaves nothing behind."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import random
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncgen.dataset import draft, parts
from asyncgen.dataset.part_child import answer_to
from asyncgen.dataset.parts import Part, PartRequest, divide, join_parts
from asyncgen.dataset.prepare_run import Prepared, prepare_run
from asyncgen.dataset.report import collect
from asyncgen.dataset.report.collect import Report, make_report
from asyncgen.dataset.writer import FilePart
from asyncgen.errors import AsyncgenError, DiskError
from asyncgen.providers.prices import PriceList
from asyncgen.providers.profiles import PROFILES, Finetuning
from asyncgen.run.directory import RunDirectory, open_run
from asyncgen.run.jsonl import BadLineError
from asyncgen.run.records import encode_line

if TYPE_CHECKING:
    from asyncgen.run.records import Record

MakeRun = Callable[..., Any]  # the fixture's class stands in conftest, which cannot be imported

TEXT = "Give your shops a safe way to accept cards online, because every customer wants it now."
TEXTS = [
    TEXT,
    TEXT.replace("safe", "quick"),
    "Short.",
    "Another one, for Paris.",
    "<think>Hm.</think> Well.",
    " ",
    "long " * 41,
]
JOB = """
name = "shops"
[grid]
sector = ["Grocery", "Pharmacy"]
city = ["Brussels", "Paris", "Berlin"]
[prompt]
user = "Write for {sector} in {city}."
sample = "{city}"
[generate]
repeats = 8
[checks]
max_words = 40
"""
ROWS = 48
JUDGE = 'name = "judge"\n[rows]\nrun = "run"\n[prompt]\nuser = "{answer}"\n[answer]\nformat = "json"\n'
SPLIT = "[dataset]\nvalidation = 0.5\nseed = 7\n"
TABLES = [
    SPLIT,
    '[dataset]\nformat = "completion"\nseparator = "s"\nending = "o"\n',
    '[dataset]\nformat = "preference"\n',
    '[dataset]\nformat = "preference"\nchosen = { sector = "Grocery" }\nrejected = { sector = "Pharmacy" }\n',
    SPLIT + 'scores = { run = "judge", field = "score", at_least = 2, best = 3 }\n',
    SPLIT + '[answer]\nformat = "json"\neach = "texts"\n',
]
folder_stays = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


TAKES_ALL = msgspec.structs.replace(
    PROFILES["openai"],
    finetuning=msgspec.structs.replace(
        PROFILES["openai"].finetuning or Finetuning(), min_samples=1, formats=("chat", "completion")
    ),
)


def prepare(made: Any, **options: bool) -> Prepared:
    with open_run(made.path) as run:
        return prepare_run(run, made.opened.job, made.opened.grid, provider=TAKES_ALL, prices=PriceList(), **options)


def read_here(task: Any, rows: Any, of: Sequence[Part], outputs: Any, found: Any) -> None:
    """As `read_parts`, without the processes."""
    requests = [
        pickle.dumps(PartRequest(task, rows.paths, part, [file.fileno() for file in files]))
        for part, files in zip(of, outputs, strict=True)
    ]
    answers = (pickle.loads(pickle.dumps(answer_to(pickle.loads(each)))) for each in requests)
    join_parts(answers, rows, of, found)


@contextmanager
def divided(at: Sequence[Part], read: Callable[..., None] = parts.read_parts) -> Iterator[None]:
    """Runs are read in these parts."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (draft, collect):
            patch.setattr(module, "divide", lambda _: at)
            patch.setattr(module, "read_parts", read)
        yield


def cut(path: Path, places: list[int]) -> list[Part]:
    """The parts of a file that is cut before some of its lines."""
    ends = [0]
    for line in path.read_bytes().splitlines(keepends=True):
        ends.append(ends[-1] + len(line))
    cuts = sorted({ends[place % len(ends)] for place in places} - {0, ends[-1]})
    return [[FilePart(0, begin, end)] for begin, end in zip([0, *cuts], [*cuts, None], strict=True)]


def outcome(made: Any, **options: bool) -> tuple[Any, ...]:
    """All that `prepare` leaves: what it returns or raises, and its files."""
    try:
        prepared = prepare(made, **options)
        result: Any = {**{each.name: getattr(prepared, each.name) for each in dataclasses.fields(prepared)}}
        result |= {"tokens": dict(prepared.tokens.counts), "rejected": list(prepared.rejected.items())}
    except AsyncgenError as error:
        result = (type(error), error.what, error.cause, error.help_text)
    names = ("train", "validation", "rejected")
    files = [path.read_bytes() if (path := getattr(made.directory, name)).exists() else None for name in names]
    return result, files, made.directory.read_state().dataset


def figures(report: Report) -> Any:
    made = dataclasses.asdict(report)
    return {
        name: list(value.items()) if isinstance(value, dict) else getattr(value, "counts", value)
        for name, value in made.items()
    }


def answers_of(seed: int, count: int) -> list[tuple[str, str, bool, int]]:
    """Text, finish reason, whether it is simulated, and score; many of them again and again."""
    rng = random.Random(seed)
    words = "abcdefgh"[: rng.randint(1, 8)]
    return [
        (
            f"{rng.choice(TEXTS)} {rng.choice(words)}",
            rng.choice(["stop", "stop", "stop", "length"]),
            rng.random() < 0.2,
            rng.randint(1, 3),
        )
        for _ in range(count)
    ]


def written(record: Record, answer: tuple[str, str, bool, int], *, as_json: bool) -> Record:
    text, finish, simulated, _ = answer
    if as_json:
        text = f"```json\n{json.dumps({'texts': [text, TEXTS[record.repeat % 3]]})}\n```"
    return msgspec.structs.replace(record, completion=text, finish_reason=finish, simulated=simulated)


def filled(make_run: MakeRun, tables: str, seed: int) -> Any:
    made = make_run(tables, job=JOB)
    given_answers = answers_of(seed, ROWS)
    made.directory.failures.unlink(missing_ok=True)
    made.fail(1)
    made.fill(lambda record: written(record, given_answers[record.index], as_json="each" in tables))
    if "judge" in tables:
        judge = make_run(job=JUDGE, name="judge")
        judge.fill(
            lambda record: msgspec.structs.replace(
                record, completion=f'{{"score": {given_answers[record.index % ROWS][3]}}}'
            )
        )
    return made


@folder_stays
@given(
    st.sampled_from(TABLES),
    st.integers(0, 2**32),
    st.lists(st.integers(0, ROWS), min_size=1, max_size=5),
    st.booleans(),
)
def test_a_run_prepared_in_parts_is_the_same_to_the_byte(
    make_run: MakeRun, tables: str, seed: int, places: list[int], drop: bool
) -> None:
    made = filled(make_run, tables, seed)
    options = {"simulated": True, "drop_near_duplicates": drop and "preference" not in tables}
    whole = outcome(made, **options)
    with divided(cut(made.directory.records, places), read_here):
        assert outcome(made, **options) == whole


@folder_stays
@given(st.sampled_from(TABLES), st.integers(0, 2**32), st.lists(st.integers(0, ROWS), min_size=1, max_size=5))
def test_the_report_of_a_run_read_in_parts_is_the_same(
    make_run: MakeRun, tables: str, seed: int, places: list[int]
) -> None:
    made = filled(make_run, tables, seed)
    whole = make_report(made.directory, made.opened.job, made.opened.grid)
    with divided(cut(made.directory.records, places), read_here):
        assert figures(make_report(made.directory, made.opened.job, made.opened.grid)) == figures(whole)


@given(
    st.integers(0, ROWS - 1),
    st.lists(st.integers(0, ROWS + 6), min_size=1, max_size=4),
    st.integers(0, 3),
    st.booleans(),
)
@folder_stays
def test_a_damaged_line_has_its_number_in_the_whole_file(
    make_run: MakeRun, place: int, places: list[int], blank: int, marked: bool
) -> None:
    made = make_run(job=JOB).fill()
    lines = list(map(encode_line, made.records))
    lines[place] = b'{"key": 7}\n'
    lines[place:place] = [b"\n"] * blank
    made.directory.records.write_bytes(b"\xef\xbb\xbf" * marked + b"".join(lines))
    with divided(cut(made.directory.records, places), read_here):
        with pytest.raises(BadLineError) as prepared:
            prepare(made)
        with pytest.raises(BadLineError) as reported:
            make_report(made.directory, made.opened.job, made.opened.grid)
    assert prepared.value.number == reported.value.number == place + blank + 1
    assert str(made.directory.records) in prepared.value.what


@given(
    st.lists(st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line), max_size=30), max_size=9),
    st.integers(1, 300),
)
@folder_stays
def test_files_are_divided_at_line_ends_without_a_gap(tmp_path: Path, files: list[list[bytes]], least: int) -> None:
    paths = [tmp_path / str(number) for number in range(len(files))]
    contents = [b"".join(line + b"\n" for line in lines) for lines in files]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    found = divide([*paths, tmp_path / "missing"], least, most=5)
    assert len(found) in {0, 2, 3, 4, 5}
    if found:
        pieces = [piece for part in found for piece in part]
        read = [contents[piece.file][piece.begin : piece.end] for piece in pieces]
        assert b"".join(read) == b"".join(contents)
        assert all(piece.endswith(b"\n") for piece in read)
        assert [piece for piece in pieces if piece.end is None] == [
            [each for each in pieces if each.file == number][-1] for number in sorted({piece.file for piece in pieces})
        ]


@folder_stays
@given(st.lists(st.integers(0, ROWS), min_size=1, max_size=6), st.integers(2, 5), st.integers(0, ROWS - 1))
def test_the_records_of_several_files_are_read_in_parts_too(
    make_run: MakeRun, places: list[int], most: int, damaged: int
) -> None:
    made = make_run(SPLIT, job=JOB).fill()
    lines = list(map(encode_line, made.records))
    bounds = [0, *sorted(places), ROWS]
    paths = [made.path / f"records-{number}.jsonl" for number in range(len(bounds) - 1)]

    def write() -> None:
        for path, begin, end in zip(paths, bounds, bounds[1:], strict=False):
            path.write_bytes(b"".join(lines[begin:end]))

    write()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "record_files", lambda _: paths)
        whole = figures(make_report(made.directory, made.opened.job, made.opened.grid))
        with divided(divide(paths, 1, most), read_here):
            assert figures(make_report(made.directory, made.opened.job, made.opened.grid)) == whole
        lines[damaged] = b"[]\n"
        write()
        with pytest.raises(BadLineError) as expected:
            make_report(made.directory, made.opened.job, made.opened.grid)
        with divided(divide(paths, 1, most), read_here), pytest.raises(BadLineError) as found:
            make_report(made.directory, made.opened.job, made.opened.grid)
    assert found.value.what == expected.value.what


def test_processes_of_their_own_find_the_same(make_run: MakeRun) -> None:
    made = make_run(SPLIT, job=JOB).fill()
    made.write([*made.records, *(msgspec.structs.replace(each, key=f"{each.index:032x}") for each in made.records)])
    whole, report = outcome(made), make_report(made.directory, made.opened.job, made.opened.grid)
    with divided(cut(made.directory.records, [40, 60])):
        assert outcome(made) == whole
        assert figures(make_report(made.directory, made.opened.job, made.opened.grid)) == figures(report)
    assert report.duplicates == ROWS


def children() -> list[str]:
    """The processes that this one started to read parts."""
    command = ["ps", "--ppid", str(os.getpid()), "-o", "args="]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return [line for line in found.stdout.splitlines() if "part_child" in line]


def test_a_process_that_is_killed_ends_the_command_and_leaves_the_dataset_as_it_was(make_run: MakeRun) -> None:
    made = make_run(SPLIT, job=JOB).fill()
    before = outcome(made)
    answer = parts._answer

    def killing(process: subprocess.Popen[bytes], path: Path) -> Any:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return answer(process, path)

    with divided(cut(made.directory.records, [10])), pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_answer", killing)
        patch.setattr(parts, "_ask", lambda *_: None)
        result, *files = outcome(made)
    assert result[0] is AsyncgenError
    assert "ended early" in result[1]
    assert files == list(before[1:])
    assert not children()
    assert not [path for path in made.path.iterdir() if path.name.endswith(".tmp")]


def test_an_interruption_ends_the_processes_and_leaves_the_dataset_as_it_was(make_run: MakeRun) -> None:
    made = make_run(SPLIT, job=JOB).fill()
    _, *before = outcome(made)

    def interrupted(*_: object) -> None:
        assert len(children()) == 2
        raise KeyboardInterrupt

    with divided(cut(made.directory.records, [10])), pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(made)
        with pytest.raises(KeyboardInterrupt):
            make_report(made.directory, made.opened.job, made.opened.grid)
    assert not children()
    assert outcome(made)[1:] == tuple(before)
    assert not [path for path in made.path.iterdir() if path.name.endswith(".tmp")]


def test_a_disk_that_is_full_in_a_process_is_the_commands_error(make_run: MakeRun) -> None:
    made = make_run(SPLIT, job=JOB).fill()
    before = outcome(made)

    def full(task: Any, rows: Any, of: Any, outputs: Any, found: Any) -> None:
        with Path("/dev/full").open("wb") as device:
            parts.read_parts(task, rows, of, [(device, device) for _ in of], found)

    with divided(cut(made.directory.records, [10]), full):
        result, *files = outcome(made)
    assert result[0] is DiskError
    assert files == list(before[1:])
    assert not children()


def test_processes_do_not_outlive_a_killed_command(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from asyncgen.dataset import parts\n"
        "with parts._process(os.environ, []) as one, parts._process(os.environ, []) as two:\n"
        "    print(one.pid, two.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stdout
    for pid in map(int, told.split()):
        with suppress(ProcessLookupError):  # it has ended already
            descriptor = os.pidfd_open(pid)
            assert select.select([descriptor], [], [], 30)[0]
            os.close(descriptor)
