"""Weights of tuned models from providers in each one's own shape, with their files at another host."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from asyncgen.cli.main import main
from asyncgen.errors import AsyncgenError, AuthError, RunInUseError, UsageError
from asyncgen.finetune.api import AbsentError, OutageError, RemoteFile
from asyncgen.finetune.download import find_weights, target_paths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = "sk-canary-0123456789"
CONTENT = bytes(range(256)) * 20_000
CONFIG = json.dumps({"base_model_name_or_path": "org/base", "r": 32}).encode()


@dataclass
class Storage:
    """A host of files: with ranges and versions, which breaks off, refuses and sends on where a test wants.

    Attributes:
        cuts: after so many bytes each of the next answers breaks off.
        stalls: after so many bytes the next answers go on no more.
        seen: path, range and key of each request.
    """

    base_url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    etag: str | None = '"one"'
    more: dict[str, str] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    stalls: int | None = None
    status: int = 0
    moved: dict[str, str] = field(default_factory=dict)
    pages: dict[str, Any] = field(default_factory=dict)
    seen: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/v1").removeprefix("/inference")
        self.seen.append((path, request.headers.get("Range"), request.headers.get("Authorization")))
        if path in self.pages:
            return web.json_response(self.pages[path])
        if self.status:
            return web.json_response({"error": {"message": "no"}}, status=self.status)
        if path in self.moved:
            return web.Response(status=302, headers={"Location": self.moved[path]})
        if path not in self.files:
            return web.json_response({"error": {"message": "nothing there", "code": "not_found"}}, status=404)
        return await self._send(request, self.files[path])

    async def _send(self, request: web.Request, content: bytes) -> web.StreamResponse:
        headers = {**self.more, **({"ETag": self.etag} if self.etag else {})}
        start = 0
        if (found := request.headers.get("Range")) and request.headers.get("If-Range") == self.etag:
            start = int(found.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return web.Response(status=416, headers={**headers, "Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        response.content_length = len(content) - start
        await response.prepare(request)
        cut = self.cuts.pop(0) if self.cuts else self.stalls
        await response.write(content[start:][:cut])
        if cut is not None and self.stalls is None:
            assert request.transport is not None
            request.transport.abort()
        elif cut is not None:
            await self.stopping.wait()
        return response


@contextmanager
def serving(storage: Storage) -> Iterator[Storage]:
    ready, loop = threading.Event(), asyncio.new_event_loop()

    async def live() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", storage.answer)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        storage.base_url = "http://{}:{}".format(*runner.addresses[0][:2])
        ready.set()
        await storage.stopping.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(live(),))
    thread.start()
    assert ready.wait(30)
    try:
        yield storage
    finally:
        loop.call_soon_threadsafe(storage.stopping.set)
        thread.join()
        loop.close()


@pytest.fixture
def storage() -> Iterator[Storage]:
    with serving(Storage(files={"/weights": CONTENT})) as found:
        yield found


@pytest.fixture
def other() -> Iterator[Storage]:
    """Another host."""
    with serving(Storage(files={"/signed/weights": CONTENT})) as found:
        yield found


@pytest.fixture
def fetched(open_provider: Any, provider: Any, storage: Storage, tmp_path: Path) -> Callable[..., Path]:
    """Fetch /weights of the storage, which is the provider itself, or what is given."""

    def fetch(url: str = "weights", *, path: Path = tmp_path / "w", **known: Any) -> Path:
        provider.base_url = f"{storage.base_url}/v1"

        async def work() -> None:
            async with open_provider() as tuner:
                told: list[tuple[int, int]] = []
                file = RemoteFile(name="w", url=url, **known)
                await tuner.make_fetcher().fetch(file, path, lambda there, size: told.append((there, size)))
                assert told[-1:] in ([], [(len(CONTENT), len(CONTENT))])

        asyncio.run(work())
        return path

    return fetch


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_broken_download_goes_on_where_it_broke(storage: Storage, fetched: Any, tmp_path: Path) -> None:
    storage.cuts = [1_000_000, 500_000]
    assert fetched().read_bytes() == CONTENT
    asked = [found for _, found, _ in storage.seen]
    assert asked[0] is None
    assert len(asked) == 3
    assert all(re.fullmatch(r"bytes=[1-9]\d*-", found or "") for found in asked[1:])
    assert {key for *_, key in storage.seen} == {f"Bearer {KEY}"}
    assert left(tmp_path) == ["w"]


def test_what_an_earlier_command_left_is_gone_on_with(storage: Storage, fetched: Any, tmp_path: Path) -> None:
    storage.cuts = [1_000_000, 0, 0, 0, 0, 0]
    with pytest.raises(OutageError):
        fetched()
    there = (tmp_path / "w.part").stat().st_size
    assert 0 < there <= 1_000_000
    storage.seen, storage.cuts = [], []
    assert fetched().read_bytes() == CONTENT
    assert [found for _, found, _ in storage.seen] == [f"bytes={there}-"]


@pytest.mark.parametrize("etag", ['"two"', None, 'W/"weak"'])
def test_another_version_or_one_without_a_name_begins_anew(
    storage: Storage, fetched: Any, tmp_path: Path, etag: str | None
) -> None:
    (tmp_path / "w.part").write_bytes(b"of another version")
    (tmp_path / "w.part.tag").write_text('"one"')
    storage.etag, storage.cuts = etag, [1_000_000]
    assert fetched().read_bytes() == CONTENT


def test_all_of_it_is_there_already(storage: Storage, fetched: Any, tmp_path: Path) -> None:
    (tmp_path / "w.part").write_bytes(CONTENT)
    (tmp_path / "w.part.tag").write_text('"one"')
    assert fetched().read_bytes() == CONTENT
    assert len(storage.seen) == 1
    assert left(tmp_path) == ["w"]


@pytest.mark.parametrize(
    ("known", "more", "words"),
    [
        ({"bytes": 7}, {}, "7 were announced"),
        ({"sha256": "0" * 64}, {}, "sha256"),
        ({}, {"x-goog-hash": "crc32c=AAAAAA==,md5=" + base64.b64encode(b"0" * 16).decode()}, "md5"),
    ],
)
def test_what_arrives_otherwise_than_announced_is_thrown_away(
    storage: Storage, fetched: Any, tmp_path: Path, known: Any, more: Any, words: str
) -> None:
    storage.more = more
    with pytest.raises(AsyncgenError) as refused:
        fetched(**known)
    assert words in (refused.value.cause or "")
    assert left(tmp_path) == []


def test_what_arrives_as_announced_is_kept(storage: Storage, fetched: Any) -> None:
    storage.more = {"x-goog-hash": "md5=" + base64.b64encode(hashlib.md5(CONTENT).digest()).decode()}
    path = fetched(bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())
    assert path.read_bytes() == CONTENT


def test_the_key_stays_with_the_provider(storage: Storage, other: Storage, fetched: Any, tmp_path: Path) -> None:
    storage.moved["/weights"] = f"{other.base_url}/signed/weights?signature=s"
    assert fetched().read_bytes() == CONTENT
    assert [key for *_, key in storage.seen] == [f"Bearer {KEY}"]
    assert [key for *_, key in other.seen] == [None]
    assert fetched(f"{other.base_url}/signed/weights", path=tmp_path / "x").read_bytes() == CONTENT
    assert {key for *_, key in other.seen} == {None}


def test_the_key_does_not_come_back_with_a_redirect(storage: Storage, other: Storage, fetched: Any) -> None:
    storage.moved["/weights"] = f"{other.base_url}/away"
    other.moved["/away"] = f"{storage.base_url}/v1/again"
    storage.files["/again"] = CONTENT
    fetched()
    assert [(path, key) for path, _, key in storage.seen] == [("/weights", f"Bearer {KEY}"), ("/again", None)]


@pytest.mark.parametrize("target", ["http://storage.example/w", "ftp://storage.example/w", "file:///etc/passwd"])
def test_an_address_that_is_not_encrypted_is_not_followed(
    storage: Storage, fetched: Any, tmp_path: Path, target: str
) -> None:
    storage.moved["/weights"] = target
    with pytest.raises(AsyncgenError, match="not safe to follow"):
        fetched()
    assert left(tmp_path) == []


def test_a_signed_address_that_expired_says_what_to_do(
    storage: Storage, other: Storage, fetched: Any, tmp_path: Path
) -> None:
    other.status = 403
    with pytest.raises(AsyncgenError) as refused:
        fetched(f"{other.base_url}/signed/weights")
    assert "the same command again" in (refused.value.help_text or "")
    assert left(tmp_path) == []
    assert storage.seen == []


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, AuthError), (403, AuthError), (404, AbsentError), (400, AsyncgenError), (503, OutageError)],
)
def test_a_refusal_of_the_provider_is_told_in_its_words(
    storage: Storage, fetched: Any, tmp_path: Path, status: int, kind: type[AsyncgenError]
) -> None:
    storage.status = status
    with pytest.raises(kind) as refused:
        fetched()
    assert type(refused.value) is kind
    assert f"{status}: no" in (refused.value.cause or "")
    assert left(tmp_path) == []


def test_a_web_page_is_no_file(storage: Storage, fetched: Any, tmp_path: Path) -> None:
    storage.more = {"Content-Type": "text/html; charset=utf-8"}
    with pytest.raises(AsyncgenError, match="a web page instead of the file"):
        fetched()
    assert left(tmp_path) == []


def test_a_file_is_downloaded_once_at_a_time(storage: Storage, fetched: Any, tmp_path: Path) -> None:
    import fcntl  # noqa: PLC0415 - of this test alone

    with (tmp_path / "w.part").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunInUseError):
            fetched()
    assert storage.seen == []


def test_a_killed_download_is_gone_on_with_by_the_same_command(storage: Storage, tmp_path: Path) -> None:
    storage.pages["/fine-tunes/ft-1"] = together_job()
    storage.moved["/finetune/download"] = f"{storage.base_url}/v1/weights"
    storage.stalls = 3_000_000
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "TOGETHER_API_KEY": KEY,
        "HOME": str(tmp_path),
    }
    command = [sys.executable, "-m", "asyncgen", "finetune", "download", "ft-1", "--provider", "together"]
    command += ["--base-url", f"{storage.base_url}/v1", "-o", "out"]
    part = tmp_path / "out" / "adapter.tar.part"
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not part.exists() or part.stat().st_size < 1_000_000:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    storage.stalls = None
    storage.seen.clear()
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=60, capture_output=True)
    assert (tmp_path / "out" / "adapter.tar").read_bytes() == CONTENT
    assert [found for path, found, _ in storage.seen if path == "/weights"] != [None]
    assert left(tmp_path / "out") == ["README.md", "adapter.tar"]


def together_job(**fields: Any) -> dict[str, Any]:
    return {
        "id": "ft-1", "status": "completed", "model": "org/base", "model_output_name": "me/tuned",
        "training_type": {"type": "Lora"}, **fields,
    }  # fmt: skip


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`asyncgen finetune download ...` at a base URL; its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, base_url: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv(f"{name.upper()}_API_KEY", KEY)
        monkeypatch.setenv("FIREWORKS_ACCOUNT_ID", "me")
        with pytest.raises(SystemExit) as ended:
            main(["finetune", "download", *arguments, "--provider", name, "--base-url", base_url])
        shown = capsys.readouterr()
        assert KEY not in shown.out + shown.err
        return int(ended.value.code or 0), shown.out, shown.err

    return run


def test_together_gives_an_archive_by_way_of_another_host(
    storage: Storage, other: Storage, command: Any, tmp_path: Path
) -> None:
    storage.pages |= {"/fine-tunes": {"data": [together_job()]}, "/fine-tunes/ft-1": together_job()}
    storage.moved["/finetune/download"] = f"{other.base_url}/signed/weights"
    other.files["/signed/weights"] = b"\x28\xb5\x2f\xfd" + CONTENT
    code, out, err = command("together", f"{storage.base_url}/v1", "me/tuned")
    assert (code, out.strip()) == (0, "tuned/adapter.tar.zst")
    assert "tar -xf tuned/adapter.tar.zst -C tuned" in err
    assert "vllm serve org/base --enable-lora --lora-modules tuned=tuned" in err
    assert {key for *_, key in other.seen} == {None}
    assert "ft-1" in (tmp_path / "tuned" / "README.md").read_text()


@pytest.mark.parametrize(
    ("kind", "step", "query"),
    [
        ("Lora", None, "ft_id=ft-1&checkpoint=adapter"),
        ("Lora", 40, "ft_id=ft-1&checkpoint=adapter&checkpoint_step=40"),
        ("Full", None, "ft_id=ft-1&checkpoint=model_output_path"),
    ],
)
def test_together_is_asked_for_the_adapter_or_all_weights_and_for_a_step(
    open_provider: Any, provider: Any, storage: Storage, kind: str, step: int | None, query: str
) -> None:
    storage.pages["/fine-tunes/ft-1"] = together_job(training_type={"type": kind})
    provider.base_url = f"{storage.base_url}/v1"

    async def work() -> None:
        async with open_provider("together") as tuner:
            found = await find_weights(tuner, job_id="ft-1", model=None, step=step)
            assert found.files[0].url == f"finetune/download?{query}"

    asyncio.run(work())


def test_fireworks_files_lie_at_signed_addresses(
    storage: Storage, other: Storage, command: Any, tmp_path: Path
) -> None:
    model = "/accounts/me/models/mine"
    names = ("checkpoint/adapter_config.json", "checkpoint/adapter_model.safetensors", "../../checkpoint/evil")
    other.files = dict(zip(("/a", "/b", "/c"), (CONFIG, CONTENT, b"x"), strict=True))
    urls = {name: f"{other.base_url}{path}?X-Goog-Signature=s" for name, path in zip(names, other.files, strict=True)}
    storage.pages |= {
        f"{model}:getDownloadEndpoint": {"filenameToSignedUrls": urls},
        model: {"name": "accounts/me/models/mine", "peftDetails": {"baseModel": "accounts/fireworks/models/base"}},
        "/accounts/me/supervisedFineTuningJobs": {},
    }
    code, out, err = command("fireworks", f"{storage.base_url}/inference/v1", "accounts/me/models/mine", "-o", "d/e")
    assert code == 0
    assert sorted(out.split()) == ["d/e/adapter_config.json", "d/e/adapter_model.safetensors", "d/e/evil"]
    assert (tmp_path / "d/e/adapter_model.safetensors").read_bytes() == CONTENT
    assert "vllm serve org/base --enable-lora --lora-modules mine=d/e --max-lora-rank 32" in err
    assert {key for *_, key in other.seen} == {None}
    assert "Signature" not in out + err + (tmp_path / "d/e/README.md").read_text()


def test_fireworks_own_command_is_named_where_its_api_gives_nothing(storage: Storage, command: Any) -> None:
    storage.pages["/accounts/me/supervisedFineTuningJobs"] = {}
    code, _, err = command("fireworks", f"{storage.base_url}/inference/v1", "accounts/me/models/mine")
    assert code == 1
    assert "firectl model download mine FOLDER" in err
    storage.pages["/accounts/me/models/mine:getDownloadEndpoint"] = {"filenameToSignedUrls": {}}
    storage.pages["/accounts/me/models/mine"] = {"name": "accounts/me/models/mine"}
    code, _, err = command("fireworks", f"{storage.base_url}/inference/v1", "accounts/me/models/mine")
    assert code == 1
    assert "firectl model download mine FOLDER" in err


def nebius_job(provider: Any) -> str:
    job = provider.add_job(status="succeeded", model="org/base")
    for step in (10, 20):
        names = {"adapter_config.json": CONFIG, "adapter_model.safetensors": CONTENT + bytes([step])}
        for name, content in names.items():
            identifier = f"file-{step}-{name[8]}"
            filename = f"ckpt-{step}/{name}"
            provider.files[identifier] = {"id": identifier, "filename": filename, "bytes": len(content)}
            provider.contents[identifier] = content
        provider.checkpoints.setdefault(job["id"], []).append(
            {"id": f"ftckpt-{step}", "step_number": step, "result_files": [f"file-{step}-c", f"file-{step}-m"]}
        )
    return str(job["id"])


def test_nebius_checkpoints_are_files_of_which_the_last_ones_are_taken(
    provider: Any, command: Any, tmp_path: Path
) -> None:
    job = nebius_job(provider)
    code, out, err = command("nebius", provider.base_url, job)
    assert code == 0
    assert sorted(out.split()) == [f"weights-{job}/adapter_{name}" for name in ("config.json", "model.safetensors")]
    assert (tmp_path / f"weights-{job}" / "adapter_model.safetensors").read_bytes() == CONTENT + bytes([20])
    assert f"vllm serve org/base --enable-lora --lora-modules {job}=weights-{job} --max-lora-rank 32" in err
    assert "ftckpt-20" in (tmp_path / f"weights-{job}" / "README.md").read_text()
    code, out, _ = command("nebius", provider.base_url, job, "--step", "10", "--json")
    assert (code, json.loads(out)["job"]) == (0, job)
    assert (tmp_path / f"weights-{job}-step-10" / "adapter_model.safetensors").read_bytes() == CONTENT + bytes([10])
    code, _, err = command("nebius", provider.base_url, job, "--step", "15")
    assert code == 1
    assert "10, 20" in err


def test_nothing_is_replaced_without_a_word(provider: Any, command: Any, tmp_path: Path) -> None:
    job = nebius_job(provider)
    kept = tmp_path / f"weights-{job}" / "adapter_config.json"
    kept.parent.mkdir()
    kept.write_text("mine")
    code, _, err = command("nebius", provider.base_url, job)
    assert code == 2
    assert "adapter_config.json would be replaced" in err
    assert kept.read_text() == "mine"
    code, _, _ = command("nebius", provider.base_url, job, "--yes")
    assert code == 0
    assert kept.read_bytes() == CONFIG


def test_a_job_that_has_not_ended_has_no_weights(provider: Any, command: Any) -> None:
    job = provider.add_job(status="running")["id"]
    code, _, err = command("nebius", provider.base_url, job)
    assert code == 2
    assert "running" in err


def test_openai_gives_none_and_nothing_is_asked(provider: Any, command: Any) -> None:
    code, _, err = command("openai", provider.base_url, "ft:gpt-4.1-mini:org:x")
    assert code == 1
    for name in ("nebius", "together", "fireworks", "local"):
        assert name in err
    assert provider.seen == []


def test_files_of_a_run_are_not_replaced(open_provider: Any, provider: Any, run: Any) -> None:
    job = nebius_job(provider)
    identifier = "file-20-c"
    provider.files[identifier]["filename"] = "records.jsonl"
    provider.checkpoints[job][1]["result_files"] = [identifier]

    async def work() -> None:
        async with open_provider("nebius") as tuner:
            weights = await find_weights(tuner, job_id=job, model=None, step=None)
            run.update(lambda state: state)
            with pytest.raises(UsageError, match="file of the run"):
                target_paths(weights, run.directory.path)
            with pytest.raises(AbsentError):
                await find_weights(tuner, job_id=None, model="unknown", step=None)

    asyncio.run(work())
