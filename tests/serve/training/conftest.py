"""Tiny models in files, llama.cpp as a judge, and the training process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import numpy as np
import pytest
import xllamacpp

from asyncgen.serve.training.architecture import read_architecture
from asyncgen.serve.training.gguf import read_gguf
from asyncgen.serve.training.layers import Weights
from asyncgen.serve.training.packing import TokenSample

from .tiny_models import TinyModel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray


@pytest.fixture
def open_model(tmp_path: Path) -> Callable[..., Weights]:
    """Write a tiny model and open it."""

    def open_it(model: TinyModel, precision: Any = np.float32) -> Weights:
        gguf = read_gguf(model.write(tmp_path / "tiny.gguf"))
        return Weights(gguf, read_architecture(gguf), precision)

    return open_it


@pytest.fixture
def sample() -> Callable[..., TokenSample]:
    """A sample from token ids and the places of its targets."""

    def make(tokens: Sequence[int], targets: Sequence[int]) -> TokenSample:
        flags = np.zeros(len(tokens), np.bool_)
        flags[list(targets)] = True
        return TokenSample(np.array(tokens, np.int64), flags)

    return make


class LlamaCpp:
    """A model in llama.cpp, with an adapter or without."""

    def __init__(self, model: Path, adapter: Path | None = None) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(model)
        params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 512, 1, False, -1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        if adapter:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
        self._server = xllamacpp.Server(params)

    def tokens(self, text: str) -> list[int]:
        """A text's tokens, marks of the chat template taken as such."""
        request = json.dumps({"content": text, "parse_special": True, "add_special": False}).encode()
        with urlopen(f"{self._server.listening_address}/tokenize", request) as answer:
            tokens: list[int] = json.load(answer)["tokens"]
        return tokens

    def log_probabilities(self, tokens: Sequence[int], vocabulary: int) -> NDArray[np.float64]:
        """Of every possible next token. The choice is forced to one that is a whole character: bytes are left out."""
        request = {
            "prompt": list(tokens),
            "n_predict": 1,
            "n_probs": vocabulary,
            "temperature": 0,
            "cache_prompt": False,
            "logit_bias": [[33, 1000.0]],
        }
        answer = self._server.handle_completions(request)
        result = np.full(vocabulary, np.nan)
        for entry in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            result[entry["id"]] = entry["logprob"]
        assert not np.isnan(result).any()
        return result


@pytest.fixture
def llama_cpp() -> type[LlamaCpp]:
    return LlamaCpp
