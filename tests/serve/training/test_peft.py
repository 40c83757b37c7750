"""Adapters of PEFT as llama.cpp loads them; the judge of the numbers is torch, where an environment has it."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from asyncgen.serve.training.gguf import read_gguf
from asyncgen.serve.training.lora import convert_peft
from asyncgen.serve.training.protocol import TrainingError

from .tiny_models import TinyModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODULES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none"}
RANK = 4


def shapes(model: TinyModel) -> dict[str, tuple[int, int]]:
    queries, keys = model.heads * model.head_length, model.kv_heads * model.head_length
    rows = {"attn_q": queries, "attn_k": keys, "attn_v": keys, "attn_output": model.width, "ffn_down": model.width}
    columns = {"attn_output": queries, "ffn_down": model.hidden}
    return {name: (rows.get(name, model.hidden), columns.get(name, model.width)) for name in MODULES}


def write_peft(folder: Path, tensors: dict[str, Any], kind: str = "F32", config: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | (config or {})))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, numbers in tensors.items():
        raw = (numbers.astype("<f4").view("<u4") >> 16).astype("<u2") if kind == "BF16" else numbers.astype("<f4")
        end = len(data) + raw.nbytes
        header[name] = {"dtype": kind, "shape": numbers.shape, "data_offsets": [len(data), end]}
        data += raw.tobytes()
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    return folder


def matrices(model: TinyModel) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    found = {}
    for name, (outputs, inputs) in shapes(model).items():
        at = f"base_model.model.model.layers.1.{MODULES[name]}.lora_"
        found[f"{at}A.weight"] = rng.standard_normal((RANK, inputs)).astype("<f4")
        found[f"{at}B.weight"] = rng.standard_normal((outputs, RANK)).astype("<f4")
    return found


def read(path: Path) -> dict[str, Any]:
    gguf = read_gguf(path)
    return {name: np.frombuffer(gguf.data(each), "<f4").reshape(each.shape) for name, each in gguf.tensors.items()}


@pytest.mark.parametrize("kind", ["F32", "BF16"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_every_matrix_finds_its_place_and_its_order(tmp_path: Path, architecture: str, kind: str) -> None:
    model = TinyModel(architecture=architecture)
    given = matrices(model)
    convert_peft(
        write_peft(tmp_path / "peft", given, kind), model.write(tmp_path / "base.gguf"), tmp_path / "adapter.gguf"
    )
    found = read(tmp_path / "adapter.gguf")
    assert len(found) == len(given)
    for name, module in MODULES.items():
        ours = {part: found[f"blk.1.{name}.weight.lora_{part}"] for part in "ab"}
        theirs = {part: given[f"base_model.model.model.layers.1.{module}.lora_{part.upper()}.weight"] for part in "ab"}
        assert np.allclose(ours["a"], theirs["a"], rtol=0.01)
        head = model.head_length
        if architecture == "llama" and name in {"attn_q", "attn_k"}:  # a half's rows stand beside those of the other
            assert np.allclose(ours["b"][0::2][: head // 2], theirs["b"][: head // 2], rtol=0.01)
            assert np.allclose(ours["b"][1::2][: head // 2], theirs["b"][head // 2 : head], rtol=0.01)
        else:
            assert np.allclose(ours["b"], theirs["b"], rtol=0.01)


@pytest.mark.parametrize(("rslora", "alpha"), [(False, 8.0), (True, 16.0)])
def test_alpha_is_that_of_the_usual_scale(tmp_path: Path, rslora: bool, alpha: float) -> None:
    folder = write_peft(tmp_path / "peft", matrices(TinyModel()), config={"use_rslora": rslora})
    convert_peft(folder, TinyModel().write(tmp_path / "base.gguf"), tmp_path / "adapter.gguf")
    assert read_gguf(tmp_path / "adapter.gguf").metadata["adapter.lora.alpha"] == alpha


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"rank_pattern": {"q_proj": 8}}, "rank differs"),
        ({"modules_to_save": ["lm_head"]}, "whole modules"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"r": 0}, "rank is 0"),
        ({"r": "four"}, "adapter_config.json"),
    ],
)
def test_what_would_compute_otherwise_is_refused(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    folder = write_peft(tmp_path / "peft", matrices(TinyModel()), config=config)
    with pytest.raises(TrainingError) as refused:
        convert_peft(folder, TinyModel().write(tmp_path / "base.gguf"), tmp_path / "adapter.gguf")
    assert words in refused.value.sentence
    assert not (tmp_path / "adapter.gguf").exists()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("base_model.model.lm_head.lora_A.weight", (4, 64)),
        ("base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight", (4, 63)),
        ("base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight", (4, 64)),
        ("base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight", (8, 4)),
        ("base_model.model.model.layers.1.self_attn.q_proj.lora_magnitude_vector", (64,)),
        ("base_model.model.model.layers.x.self_attn.q_proj.lora_A.weight", (4, 64)),
    ],
)
def test_a_matrix_without_a_place_in_the_base_model_is_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    folder = write_peft(tmp_path / "peft", {name: np.zeros(shape, "<f4")})
    with pytest.raises(TrainingError, match="adapter cannot be served"):
        convert_peft(folder, TinyModel().write(tmp_path / "base.gguf"), tmp_path / "adapter.gguf")


@pytest.mark.parametrize("damage", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{}", b"\x10\0\0\0\0\0\0\0{"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: bytes) -> None:
    folder = write_peft(tmp_path / "peft", {})
    (folder / "adapter_model.safetensors").write_bytes(damage)
    with pytest.raises(TrainingError, match="adapter cannot be served"):
        convert_peft(folder, TinyModel().write(tmp_path / "base.gguf"), tmp_path / "adapter.gguf")


TORCH = """
import json, sys
import numpy, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
folder = sys.argv[1]
told = json.load(open(folder + "/told.json"))
config = AutoConfig.for_model(told["architecture"], **told["config"])
model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(torch.float32)
given = {name: torch.from_numpy(each.copy()) for name, each in numpy.load(folder + "/model.npz").items()}
missing, unknown = model.load_state_dict(given, strict=False)
assert not unknown, unknown
assert set(missing) <= {"lm_head.weight"}, missing
model.tie_weights()
model = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM"))
torch.manual_seed(1)
with torch.no_grad():
    for name, each in model.named_parameters():
        if "lora_" in name:
            each.normal_(0, 0.1)
    model.save_pretrained(folder + "/peft")
    logits = model(torch.tensor([told["tokens"]])).logits[0]
numpy.save(folder + "/log_probabilities.npy", torch.log_softmax(logits, -1).numpy())
"""


def state_of(model: TinyModel) -> dict[str, Any]:
    """The model's numbers under the names of transformers, and in its order."""
    names = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    parts = {
        **MODULES, "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
        "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    }  # fmt: skip
    found = {}
    for name, tensor in model.tensors().items():
        numbers = np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)
        if name in names:
            found[names[name]] = numbers
            continue
        _, block, part, kind = name.split(".")
        heads = {"attn_q": model.heads, "attn_k": model.kv_heads}.get(part, 0)
        if model.architecture == "llama" and heads:
            pairs = numbers.reshape(heads, model.head_length // 2, 2, -1)
            numbers = pairs.swapaxes(1, 2).reshape(numbers.shape)
        found[f"model.layers.{block}.{parts[part]}.{kind}"] = numbers
    return found


@pytest.mark.trl
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_llama_cpp_answers_with_it_as_torch_does(
    llama_cpp: Callable[..., Any], tmp_path: Path, architecture: str
) -> None:
    python = os.environ.get("ASYNCGEN_TRL_PYTHON")
    if not python:
        pytest.skip("ASYNCGEN_TRL_PYTHON names no environment with trl and peft")
    model = TinyModel(architecture=architecture)
    tokens = np.random.default_rng(1).integers(0, 256, 40).tolist()
    config = {
        "vocab_size": model.vocabulary, "hidden_size": model.width, "intermediate_size": model.hidden,
        "num_hidden_layers": model.blocks, "num_attention_heads": model.heads, "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_length, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
    }  # fmt: skip
    told = {"architecture": architecture, "config": config, "tokens": tokens}
    (tmp_path / "told.json").write_text(json.dumps(told))
    np.savez(tmp_path / "model.npz", **state_of(model))
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    subprocess.run([python, "-c", TORCH, str(tmp_path)], check=True, env=environment, timeout=100)
    theirs = np.load(tmp_path / "log_probabilities.npy")
    base = model.write(tmp_path / "base.gguf")
    convert_peft(tmp_path / "peft", base, tmp_path / "adapter.gguf")
    tuned, plain = llama_cpp(base, tmp_path / "adapter.gguf"), llama_cpp(base)
    for length in (1, 17, 40):
        ours = tuned.log_probabilities(tokens[:length], model.vocabulary)
        assert np.abs(theirs[length - 1] - ours).max() < 0.03
        without = plain.log_probabilities(tokens[:length], model.vocabulary)
        assert np.abs(without - ours).max() > 0.1
