"""`python -m asyncgen.serve.llama.child`: the process in which llama.cpp runs.

Reads one JSON object from stdin (`ChildConfig`), loads the model, writes one JSON line to stdout (`{"address": ...}` or
`{"error": ...}`), and lives until its stdin closes, so that it never outlives the server. llama.cpp answers HTTP in
threads of its own. A crash in native code ends this process only.
"""

from __future__ import annotations

import os
import signal
import sys

import msgspec

from asyncgen.json_text import decode_json


class ChildConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The model and adapters to load, and the settings of llama.cpp.

    Attributes:
        adapters: LoRA files; a request selects one by its index.
        context: tokens of all slots together.
        threads: number of processor threads.
        niceness: as in `nice`: 0 for normal priority.
        key: API key that requests need.
    """

    model: str
    adapters: list[str]
    slots: int
    context: int
    threads: int
    niceness: int
    key: str


_CACHE_MIB = 512  # cache of prompts whose slot was reused; llama.cpp's default is 8 GiB
_SMALL_REQUESTS = 8  # more threads than answers need, so that tokenising does not wait
_SILENT = -1


def main() -> int:
    """Serve until stdin closes; 1 when the model cannot be loaded."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server handles Ctrl-C, and ends this process afterwards
    config = decode_json(sys.stdin.buffer.readline(), ChildConfig)
    os.nice(config.niceness)  # before there are threads: each has a priority of its own
    try:
        import xllamacpp  # noqa: PLC0415 - the extra `local`; its absence is told like any other failure

        server = xllamacpp.Server(_parameters(xllamacpp, config))
    except (ImportError, RuntimeError, ValueError) as error:
        _tell({"error": str(error) or type(error).__name__})
        return 1
    _tell({"address": server.listening_address})
    while sys.stdin.buffer.read(1):
        pass
    os._exit(0)  # the native threads need no clean-up, and one of them may be in mid-answer


def _parameters(xllamacpp: object, config: ChildConfig) -> object:
    params = xllamacpp.CommonParams()  # type: ignore[attr-defined] # a native module without types
    params.model.path = config.model
    # Scale 0: a request that names no adapter is answered by the base model.
    params.lora_adapters = [
        xllamacpp.CommonAdapterLoraInfo(path, 0.0)  # type: ignore[attr-defined]
        for path in config.adapters
    ]
    params.n_parallel = config.slots
    params.n_ctx = config.context
    for pool in (params.cpuparams, params.cpuparams_batch):
        pool.n_threads = config.threads
        pool.poll = 0  # threads that spin while they wait starve a training on the same cores
    # llama.cpp does not note the adapter of a cached prompt, and would continue with the wrong one's.
    params.cache_ram_mib = 0 if config.adapters else _CACHE_MIB
    params.n_threads_http = 2 * config.slots + _SMALL_REQUESTS
    params.warmup = False
    params.verbosity = _SILENT
    params.api_keys = [config.key]
    params.ui = False
    return params


def _tell(message: dict[str, str]) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
