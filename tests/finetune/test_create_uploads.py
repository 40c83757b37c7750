"""asyncgen.finetune.create: the same bytes are sent once."""

from __future__ import annotations

import asyncio
import codecs
import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from asyncgen.errors import DiskError, UsageError
from asyncgen.finetune.api import OutageError
from asyncgen.finetune.create import upload_once, upload_source

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.run.directory import RunWriter


def send(
    open_provider: Any, run: RunWriter, path: Path, name: str = "openai", *, mark: bool = False, progress: Any = None
) -> str:
    async def scenario() -> str:
        async with open_provider(name) as tuner:
            with upload_source(path, byte_order_mark=mark, max_bytes=10**9) as source:
                return await upload_once(tuner, run, source, progress or (lambda *_: None))

    return asyncio.run(scenario())


def test_a_file_is_sent_whole_under_a_name_that_carries_its_hash(
    provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    told: list[tuple[int, int]] = []
    file_id = send(open_provider, run, training_file, progress=lambda *step: told.append(step))
    content = training_file.read_bytes()
    assert provider.contents[file_id] == content
    assert provider.files[file_id]["filename"] == f"train-{hashlib.sha256(content).hexdigest()[:16]}.jsonl"
    assert provider.files[file_id]["purpose"] == "fine-tune"
    assert told[-1] == (len(content), len(content))


def test_a_file_that_is_noted_and_still_there_is_not_sent_again(
    provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    first = send(open_provider, run, training_file)
    assert send(open_provider, run, training_file) == first
    assert provider.count("POST", "/files") == 1


def test_a_file_that_was_deleted_there_is_sent_again(
    provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    first = send(open_provider, run, training_file)
    del provider.files[first]
    second = send(open_provider, run, training_file)
    assert second != first
    assert [upload.file_id for upload in run.state.uploads] == [second]


def test_a_file_whose_note_was_lost_is_found_by_its_name_among_many(
    provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    first = send(open_provider, run, training_file)
    run.update(lambda state: replace(state, uploads=[]))
    provider.page_size = 3
    for number in range(10):
        provider.files[f"file-other-{number}"] = {"id": f"file-other-{number}", "filename": "other.jsonl", "bytes": 1}
    assert send(open_provider, run, training_file) == first
    assert provider.count("POST", "/files") == 1
    assert run.state.uploads[0].file_id == first


def test_a_file_of_the_same_name_that_is_shorter_there_was_broken_off_and_is_sent_again(
    provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    with upload_source(training_file, byte_order_mark=False, max_bytes=10**9) as source:
        provider.files["file-torn"] = {"id": "file-torn", "filename": source.filename, "bytes": 7}
    assert send(open_provider, run, training_file) != "file-torn"


def test_a_server_that_lists_no_files_gets_the_file(
    provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    provider.lists_files = False
    assert send(open_provider, run, training_file) in provider.files


def test_changed_bytes_are_another_file(provider: Any, open_provider: Any, run: RunWriter, training_file: Path) -> None:
    first = send(open_provider, run, training_file)
    training_file.write_text("{}\n", encoding="utf-8")
    assert send(open_provider, run, training_file) != first


@pytest.mark.parametrize("how", ["reset", "reset-after", 500, 503, 429, 409])
def test_an_upload_that_breaks_off_is_sent_again(
    how: int | str, provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    provider.fail("POST", "/files$", how)
    file_id = send(open_provider, run, training_file)
    assert provider.contents[file_id] == training_file.read_bytes()


def test_an_upload_that_never_gets_through_is_an_outage(
    provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    provider.fail("POST", "/files$", "reset", times=99)
    with pytest.raises(OutageError, match=r"could not upload train\.jsonl"):
        send(open_provider, run, training_file)
    assert run.state.uploads == []


@pytest.mark.parametrize("has", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_a_file_is_sent_with_a_byte_order_mark_only_where_one_is_wanted(
    has: bool, wanted: bool, provider: Any, open_provider: Any, run: RunWriter, training_file: Path
) -> None:
    plain = training_file.read_bytes()
    training_file.write_bytes((codecs.BOM_UTF8 if has else b"") + plain)
    file_id = send(open_provider, run, training_file, mark=wanted)
    assert provider.contents[file_id] == (codecs.BOM_UTF8 if wanted else b"") + plain


def test_a_file_that_is_too_large_or_missing_is_refused_before_it_is_sent(tmp_path: Path, training_file: Path) -> None:
    with (
        pytest.raises(UsageError, match="at most"),
        upload_source(training_file, byte_order_mark=False, max_bytes=9),
    ):
        pass
    with (
        pytest.raises(DiskError, match="could not be read"),
        upload_source(tmp_path / "no.jsonl", byte_order_mark=False, max_bytes=9),
    ):
        pass
