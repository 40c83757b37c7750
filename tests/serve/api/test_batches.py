"""Batches over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncgen.providers.local_server import ServerInfo

CHAT = "/v1/chat/completions"
ENDED = {"completed", "failed", "cancelled", "expired"}


def row(number: int, *, url: str = CHAT, **body: Any) -> dict[str, Any]:
    content = {"model": "m", "messages": [{"role": "user", "content": f"Question {number}"}], **body}
    return {"custom_id": f"row-{number}", "method": "POST", "url": url, "body": content}


def upload(client: openai.OpenAI, rows: list[dict[str, Any]]) -> str:
    content = b"".join(json.dumps(line).encode() + b"\n" for line in rows)
    return client.files.create(file=("batch.jsonl", content), purpose="batch").id


def create(client: openai.OpenAI, rows: list[dict[str, Any]], **more: Any) -> Any:
    return client.batches.create(
        **{"input_file_id": upload(client, rows), "endpoint": CHAT, "completion_window": "24h", **more}
    )


def answered(client: openai.OpenAI, identifier: str) -> int:
    counts = client.batches.retrieve(identifier).request_counts
    return counts.completed if counts else 0


def results(client: openai.OpenAI, file: str | None) -> dict[str, Any]:
    if file is None:
        return {}
    lines = [json.loads(line) for line in client.files.content(file).text.splitlines()]
    assert len({line["custom_id"] for line in lines}) == len(lines)
    return {line["custom_id"]: line for line in lines}


@pytest.fixture
def done(until: Any) -> Callable[..., Any]:
    """Wait until a batch has ended."""

    def wait(client: openai.OpenAI, batch: Any) -> Any:
        return until(lambda: (found := client.batches.retrieve(batch.id)).status in ENDED and found)

    return wait


def test_batch_answers_every_row(client: openai.OpenAI, done: Any) -> None:
    batch = create(client, [row(number) for number in range(200)], metadata={"run": "a"})
    assert (batch.status, batch.metadata) == ("validating", {"run": "a"})
    assert batch.expires_at == batch.created_at + 24 * 3600
    batch = done(client, batch)
    assert batch.status == "completed"
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (200, 200, 0)
    assert (batch.error_file_id, batch.model) == (None, "m")
    answers = results(client, batch.output_file_id)
    assert set(answers) == {f"row-{number}" for number in range(200)}
    response = answers["row-7"]["response"]
    assert response["status_code"] == 200
    assert response["request_id"]
    assert response["body"]["object"] == "chat.completion"
    assert batch.usage.total_tokens == sum(
        answer["response"]["body"]["usage"]["total_tokens"] for answer in answers.values()
    )
    for state in ("in_progress_at", "finalizing_at", "completed_at"):
        assert getattr(batch, state) >= batch.created_at
    assert client.files.retrieve(batch.output_file_id).purpose == "batch_output"


def test_rows_that_cannot_be_answered_are_in_the_error_file(client: openai.OpenAI, done: Any) -> None:
    batch = done(client, create(client, [row(1), row(2, temperature=3), row(3, stream=True)]))
    assert batch.status == "completed"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 2)
    errors = results(client, batch.error_file_id)
    assert set(errors) == {"row-2", "row-3"}
    assert errors["row-2"]["response"]["status_code"] == 400
    assert errors["row-2"]["response"]["body"]["error"]["param"] == "temperature"


def test_unknown_model_fails_its_rows_only(client: openai.OpenAI, done: Any) -> None:
    batch = done(client, create(client, [row(1, model="ft:gone:x::1")]))
    assert (batch.status, batch.output_file_id) == ("completed", None)
    assert results(client, batch.error_file_id)["row-1"]["response"]["status_code"] == 404


def test_completions_can_be_asked_for_in_a_batch(client: openai.OpenAI, done: Any) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "m", "prompt": "Hello"}}
    batch = done(client, create(client, [line], endpoint="/v1/completions"))
    assert results(client, batch.output_file_id)["a"]["response"]["body"]["object"] == "text_completion"


@pytest.mark.parametrize(
    ("rows", "code", "line"),
    [
        ([row(1), row(1)], "duplicate_custom_id", 2),
        ([row(1), row(2, url="/v1/completions")], "mismatched_url", 2),
        ([row(1), row(2, model="other")], "mismatched_model", 2),
        ([row(1, model=["m"])], "invalid_type", 1),
        ([{**row(1), "method": "GET"}], "invalid_json_line", 1),
        ([{"custom_id": "a"}], "invalid_json_line", 1),
    ],
)
def test_bad_file_fails_the_batch_and_names_the_line(
    client: openai.OpenAI, done: Any, rows: list[dict[str, Any]], code: str, line: int
) -> None:
    batch = done(client, create(client, rows))
    assert batch.status == "failed"
    assert [(error.code, error.line) for error in batch.errors.data] == [(code, line)]
    assert batch.failed_at is not None


def test_file_in_another_encoding_fails_the_batch_and_leaves_the_server_alone(client: openai.OpenAI, done: Any) -> None:
    lines = json.dumps(row(1)).encode() + b'\n{"custom_id": "Caf\xe9"}\n'
    file = client.files.create(file=("batch.jsonl", lines), purpose="batch")
    batch = done(client, create(client, [row(1)], input_file_id=file.id))
    assert [(error.code, error.line) for error in batch.errors.data] == [("invalid_json_line", 2)]
    assert done(client, create(client, [row(1)])).status == "completed"


def test_file_without_a_request_fails_the_batch(client: openai.OpenAI, done: Any) -> None:
    file = client.files.create(file=("batch.jsonl", b"\n\n"), purpose="batch")
    batch = done(client, create(client, [row(1)], input_file_id=file.id))
    assert batch.errors.data[0].code == "empty_file"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"input_file_id": "file-unknown"}, "input_file_id"),
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
    ],
)
def test_bad_batch_is_refused(client: openai.OpenAI, more: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, [row(1)], **more)
    assert caught.value.param == param
    assert client.batches.list().data == []


def test_batches_list_newest_first(client: openai.OpenAI) -> None:
    batches = [create(client, [row(1)]).id for _ in range(3)]
    assert [batch.id for batch in client.batches.list(limit=2)] == batches[::-1]


def test_cancelled_batch_keeps_what_was_answered(
    simulated_server: Callable[..., ServerInfo], sdk: Callable[[ServerInfo], openai.OpenAI], until: Any, done: Any
) -> None:
    client = sdk(simulated_server(latency_s=0.05))
    batch = create(client, [row(number) for number in range(2000)])
    until(lambda: answered(client, batch.id))
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = done(client, batch)
    assert batch.status == "cancelled"
    assert batch.cancelled_at >= batch.cancelling_at
    assert 0 < batch.request_counts.completed < 2000
    assert len(results(client, batch.output_file_id)) == batch.request_counts.completed
    with pytest.raises(openai.BadRequestError):
        client.batches.cancel(batch.id)


def test_batch_goes_on_after_a_restart_and_answers_no_row_twice(
    tmp_path: Path, running: Any, sdk: Any, until: Any, done: Any
) -> None:
    from asyncgen.serve.server import ServeSettings  # noqa: PLC0415 - aiohttp is heavy
    from asyncgen.serve.simulation.engine import SimulationSettings  # noqa: PLC0415 - as above

    settings = ServeSettings(data_dir=tmp_path, simulation=SimulationSettings(latency_s=0.05))
    with running(settings) as server:
        client = sdk(server)
        batch = create(client, [row(number) for number in range(640)])
        until(lambda: answered(client, batch.id))
    before = (tmp_path / "batches" / batch.id / "output.jsonl").read_bytes()
    with (tmp_path / "batches" / batch.id / "output.jsonl").open("ab") as torn:
        torn.write(b'{"id": "batch_req')
    with running(settings) as server:
        client = sdk(server)
        batch = done(client, batch)
        assert (batch.status, batch.request_counts.completed) == ("completed", 640)
        assert len(results(client, batch.output_file_id)) == 640
        assert client.files.content(batch.output_file_id).read().startswith(before)
