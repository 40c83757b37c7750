"""The queue of batches with a clock and an answer of the test's own."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from asyncgen.serve.batches import BATCH_ENDED, Batch, BatchQueue, BatchStore, BatchWork
from asyncgen.serve.stores.files import FileStore

if TYPE_CHECKING:
    from pathlib import Path

_USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 0}}


def test_rows_not_answered_within_the_window_expire_and_the_rest_is_kept(tmp_path: Path) -> None:
    now = [0.0]

    async def answer(_endpoint: str, _body: dict[str, Any]) -> dict[str, Any]:
        now[0] += 10
        return {"usage": _USAGE}

    batch, files = asyncio.run(_worked(tmp_path, answer, lambda: now[0], rows=5, expires_at=25))
    assert batch.status == "expired"
    assert batch.expired_at == 30
    assert (batch.request_counts.completed, batch.request_counts.failed) == (3, 2)
    errors = [json.loads(line) for line in files.content(batch.error_file_id or "").read_bytes().splitlines()]
    assert [(line["custom_id"], line["response"], line["error"]["code"]) for line in errors] == [
        ("3", None, "batch_expired"),
        ("4", None, "batch_expired"),
    ]
    assert batch.usage is not None
    assert batch.usage["total_tokens"] == 9


def test_batch_whose_file_was_deleted_fails(tmp_path: Path) -> None:
    async def answer(_endpoint: str, _body: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError("nothing is to be answered")

    batch, _ = asyncio.run(_worked(tmp_path, answer, lambda: 0.0, rows=5, expires_at=25, deleted=True))
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data[0].code == "file_not_found"


async def _worked(
    folder: Path, answer: Any, clock: Any, *, rows: int, expires_at: int, deleted: bool = False
) -> tuple[Batch, FileStore]:
    (folder / "files").mkdir()
    (folder / "batches").mkdir()
    files, batches = FileStore(folder / "files", clock), BatchStore(folder / "batches")
    lines = [
        {"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": {"model": "m"}}
        for number in range(rows)
    ]
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    file = files.add(content, filename="in.jsonl", purpose="batch")
    if deleted:
        files.delete(file.id)
    work = BatchWork(answer, batches, files, parallel=1, clock=clock)
    queue = BatchQueue(batches, work, clock)
    batch = Batch(
        id="batch_1",
        endpoint="/v1/completions",
        input_file_id=file.id,
        completion_window="24h",
        created_at=0,
        expires_at=expires_at,
    )
    queue.submit(batch)
    assert queue.is_busy
    working = asyncio.create_task(queue.run())
    async with asyncio.timeout(10):
        while batches.get(batch.id).status not in BATCH_ENDED:  # noqa: ASYNC110 - as a client polls
            await asyncio.sleep(0.01)
    working.cancel()
    await asyncio.wait([working])
    assert not queue.is_busy
    return batches.get(batch.id), files
