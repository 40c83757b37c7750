from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.serve.training.gguf import ListLength, read_gguf
from asyncgen.serve.training.protocol import TrainingError

from .tiny_models import TYPE_NUMBERS, TinyModel, tokens

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    return TinyModel(blocks=1).write(tmp_path / "whole.gguf").read_bytes()


def refusal(path: Path, data: bytes) -> TrainingError:
    path.write_bytes(data)
    with pytest.raises(TrainingError) as caught:
        read_gguf(path)
    assert str(path) in caught.value.what
    assert caught.value.param == "model"
    return caught.value


def test_metadata_and_tensors_are_found_again(tmp_path: Path) -> None:
    model = TinyModel(metadata={"general.flag": True})
    gguf = read_gguf(model.write(tmp_path / "tiny.gguf"))
    assert gguf.metadata["general.architecture"] == "llama"
    assert gguf.metadata["general.flag"] is True
    assert gguf.metadata["llama.block_count"] == 3
    assert gguf.metadata["llama.rope.freq_base"] == 10000.0
    assert gguf.metadata["tokenizer.ggml.tokens"] == ListLength(len(tokens()))
    assert gguf.metadata["tokenizer.ggml.token_type"] == ListLength(len(tokens()))
    written = model.tensors()
    assert {name: entry.shape for name, entry in gguf.tensors.items()} == {
        name: tensor.shape for name, tensor in written.items()
    }
    for name, entry in gguf.tensors.items():
        assert gguf.data(entry) == written[name].data


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"there is no file .*absent\.gguf") as caught:
        read_gguf(tmp_path / "absent.gguf")
    assert caught.value.code == "model_not_found"


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be read as a model") as caught:
        read_gguf(tmp_path)
    assert caught.value.cause == "Is a directory"


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "it is empty"),
        (b"PK\x03\x04 a zip file", "it does not begin like a GGUF file"),
        (b"GGUF" + struct.pack("<I", 1), "GGUF version 1"),
        (b"GGUF" + struct.pack(">I", 3), "little-endian"),
        (b"GGUF" + struct.pack("<IQ", 3, 1), "it ends within its header"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 99), "unknown type 99"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"\xff", "not UTF-8"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60), "it ends within its header"),
    ],
)
def test_a_damaged_header_is_refused_with_its_cause(tmp_path: Path, data: bytes, cause: str) -> None:
    error = refusal(tmp_path / "bad.gguf", data)
    assert error.code == "invalid_gguf"
    assert cause in str(error.cause)


def test_a_download_that_broke_off_is_told(tmp_path: Path, whole: bytes) -> None:
    error = refusal(tmp_path / "cut.gguf", whole[:-1000])
    assert "perhaps its download was incomplete" in str(error.cause)


@given(share=st.floats(0, 0.999))
def test_no_beginning_of_a_file_is_taken_for_the_whole(share: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("cut")
    data = TinyModel(blocks=1).write(folder / "whole.gguf").read_bytes()
    refusal(folder / "cut.gguf", data[: int(share * (len(data) - 64))])


def test_impossible_alignments_and_shapes_are_refused(tmp_path: Path) -> None:
    model = TinyModel(metadata={"general.alignment": 0})
    assert "alignment" in str(refusal(tmp_path / "a.gguf", model.write(tmp_path / "w").read_bytes()).cause)
    data = TinyModel(type="Q4_0", blocks=1).write(tmp_path / "q.gguf").read_bytes()
    entry = data.index(b"token_embd.weight") + len(b"token_embd.weight") + 4
    damaged = data[:entry] + struct.pack("<Q", 33) + data[entry + 8 :]
    assert "cannot have the shape" in str(refusal(tmp_path / "b.gguf", damaged).cause)


def test_a_tensor_of_an_unknown_type_is_refused_by_name_when_it_is_needed(tmp_path: Path) -> None:
    data = TinyModel(blocks=1).write(tmp_path / "tiny.gguf").read_bytes()
    place = data.index(b"blk.0.ffn_up.weight") + len(b"blk.0.ffn_up.weight") + 4 + 16
    (tmp_path / "odd.gguf").write_bytes(data[:place] + struct.pack("<I", 10) + data[place + 4 :])
    gguf = read_gguf(tmp_path / "odd.gguf")
    with pytest.raises(TrainingError, match=r"blk\.0\.ffn_up\.weight has the type Q2_K") as caught:
        gguf.data(gguf.tensors["blk.0.ffn_up.weight"])
    assert caught.value.code == "unsupported_tensor_type"
    assert all(kind in str(caught.value.help_text) for kind in TYPE_NUMBERS)


def test_a_written_file_is_what_the_gguf_package_reads(tmp_path: Path) -> None:
    model = TinyModel(blocks=1)
    reader = GGUFReader(model.write(tmp_path / "tiny.gguf"))
    assert reader.fields["general.name"].contents() == "Tiny"
    assert reader.fields["tokenizer.ggml.tokens"].contents() == tokens()
    written = model.tensors()
    assert [tensor.name for tensor in reader.tensors] == list(written)
    for tensor in reader.tensors:
        assert np.asarray(tensor.data, "<f4").tobytes() == written[tensor.name].data


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """What stood there before stays until the new file is complete."""
    path = tmp_path / "tiny.gguf"
    before = TinyModel(blocks=1).write(path).read_bytes()
    broken = TinyModel(blocks=1, metadata={"general.number": 1 << 40})  # does not fit into 32 bits
    with pytest.raises(struct.error):
        broken.write(path)
    assert path.read_bytes() == before
    TinyModel(blocks=2).write(path)
    assert path.read_bytes() != before
    assert not path.with_name("tiny.gguf.part").exists()


def header(*, key: bytes = b"", name: bytes = b"w", dimensions: int = 1) -> bytes:
    """A file with a value or none, and a tensor."""
    tensor = struct.pack("<Q", len(name)) + name + struct.pack("<I", dimensions)
    tensor += struct.pack("<Q", 1) * min(dimensions, 200_000) + struct.pack("<IQ", 0, 0)
    return b"GGUF" + struct.pack("<IQQ", 3, 1, bool(key)) + key + tensor + bytes(64)


def test_lists_within_lists_many_dimensions_and_odd_names_are_refused(tmp_path: Path) -> None:
    nested = struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000
    damaged = [header(key=nested), header(dimensions=100_000), header(name=b"\x1b[31m")]
    for number, content in enumerate(damaged):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(content)
        with pytest.raises(TrainingError) as caught:
            read_gguf(path)
        assert caught.value.code == "invalid_gguf"
        assert "\x1b" not in caught.value.sentence
