"""Files over HTTP."""

from __future__ import annotations

import os
import socket
import time
import urllib.parse
from typing import TYPE_CHECKING, Any

import openai
import pytest

from asyncgen.serve.api import files as routes
from asyncgen.serve.stores.files import FileStore
from asyncgen.serve.wire import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncgen.providers.local_server import ServerInfo


def upload(client: openai.OpenAI, content: bytes, **more: Any) -> Any:
    return client.files.create(**{"file": ("train.jsonl", content), "purpose": "fine-tune", **more})


def test_upload_comes_back_byte_for_byte(client: openai.OpenAI) -> None:
    content = os.urandom(3_000_000)
    item = upload(client, content)
    assert (item.bytes, item.filename, item.purpose, item.status) == (
        len(content), "train.jsonl", "fine-tune", "processed",
    )  # fmt: skip
    assert client.files.content(item.id).read() == content
    assert client.files.retrieve(item.id) == item


def test_list_is_newest_first_pages_and_filters(client: openai.OpenAI) -> None:
    train = [upload(client, b"x").id for _ in range(3)]
    batch = upload(client, b"x", purpose="batch").id
    assert [item.id for item in client.files.list()] == [batch, *reversed(train)]
    assert [item.id for item in client.files.list(purpose="batch")] == [batch]
    assert [item.id for item in client.files.list(order="asc", purpose="fine-tune")] == train
    page = client.files.list(limit=2, after=batch)
    assert [item.id for item in page.data] == [train[2], train[1]]
    assert page.has_more


def test_deleted_file_is_gone(client: openai.OpenAI) -> None:
    item = upload(client, b"x")
    assert client.files.delete(item.id).deleted
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(item.id)
    assert client.files.list().data == []


def test_files_outlive_the_server(
    tmp_path: Path,
    simulated_server: Callable[..., ServerInfo],
    sdk: Callable[[ServerInfo], openai.OpenAI],
) -> None:
    item = upload(sdk(simulated_server(data_dir=tmp_path)), b"content")
    store = FileStore(tmp_path / "files", lambda: 0.0)
    assert [kept.id for kept in store.all()] == [item.id]
    assert store.content(item.id).read_bytes() == b"content"


def test_file_past_its_lifetime_is_gone(tmp_path: Path) -> None:
    now = [1000.0]
    store = FileStore(tmp_path, lambda: now[0])
    with store.begin() as form:
        form.write(b"x")
        item = form.finish(filename="a", purpose="batch", lifetime_s=3600)
    assert item.expires_at == 4600
    now[0] = 4600.0
    with pytest.raises(ApiError):
        store.get(item.id)
    assert store.all() == []
    assert list(tmp_path.iterdir()) == []


def test_lifetime_is_taken_from_the_form(client: openai.OpenAI) -> None:
    item = upload(client, b"x", expires_after={"anchor": "created_at", "seconds": 7200})
    assert item.expires_at == item.created_at + 7200


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"purpose": "nonsense"}, "purpose"),
        ({"file": ("empty.jsonl", b"")}, "file"),
        ({"expires_after": {"anchor": "created_at", "seconds": 5}}, "expires_after[seconds]"),
        ({"extra_body": {"colour": "red"}}, "colour"),
    ],
)
def test_bad_form_is_refused_and_leaves_nothing(client: openai.OpenAI, more: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        upload(client, b"x", **more)
    assert caught.value.param == param
    assert client.files.list().data == []


def test_upload_that_is_no_form_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/files", body={"file": "x"}, cast_to=object)
    assert caught.value.code == "invalid_content_type"


def test_file_over_the_cap_is_refused_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    simulated_server: Callable[..., ServerInfo],
    sdk: Callable[[ServerInfo], openai.OpenAI],
) -> None:
    monkeypatch.setattr(routes, "_CAP", 1_000_000)
    client = sdk(simulated_server(data_dir=tmp_path))
    with pytest.raises(openai.APIStatusError) as caught:
        upload(client, b"x" * 1_000_001)
    assert caught.value.status_code == 413
    assert caught.value.code == "file_too_large"
    assert list((tmp_path / "files").iterdir()) == []


def test_batch_files_have_a_cap_of_their_own(client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(routes._CAPS, "batch", 10)
    upload(client, b"x" * 11)
    with pytest.raises(openai.APIStatusError) as caught:
        upload(client, b"x" * 11, purpose="batch")
    assert caught.value.status_code == 413


def test_upload_cut_off_by_a_crash_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "file-1.part").write_bytes(b"half")
    assert FileStore(tmp_path, lambda: 0.0).all() == []
    assert list(tmp_path.iterdir()) == []


def test_form_that_comes_in_pieces_is_taken(simulated_server: Callable[..., ServerInfo]) -> None:
    form = (
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n{}\r\n--x--\r\n'
    )
    address = urllib.parse.urlsplit(simulated_server().base_url)
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\nContent-Length: {len(form)}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port or 0), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(head.encode())
        for place in range(0, len(form), 3):
            connection.sendall(form[place : place + 3])
            time.sleep(0.002)
        with connection.makefile("rb") as answer:
            assert b" 200 " in answer.readline()


def test_field_that_is_too_long_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=("a", b"{}"), purpose="x" * 3000)  # type: ignore[arg-type]
    assert caught.value.param == "purpose"
    assert "too long" in caught.value.message
