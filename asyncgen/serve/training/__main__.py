"""The training process: `python -m asyncgen.serve.training CONFIG.json`.

One JSON line on stdout for each event; a foreseen error is the last line, with exit code 1; ends at once on SIGTERM or
when stdin closes. Must not import numpy before the environment limits its BLAS to one thread (`train` tells why).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from threading import Thread

import msgspec

from asyncgen.errors import DiskError
from asyncgen.serve.training.protocol import TrainerMessage, TrainingError, TrainingFailed, read_config

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def main(arguments: list[str]) -> int:
    """Run the training that the given file configures; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as for SIGTERM: end at once, since there is nothing to clean up
    Thread(target=_end_with_stdin, daemon=True).start()
    try:
        _train(arguments)
    except TrainingError as error:
        emit(TrainingFailed(code=error.code, message=error.sentence, param=error.param))
        return 1
    except MemoryError:
        emit(
            TrainingFailed(
                code="out_of_memory", message="there is not enough memory to fine-tune this model", param="model"
            )
        )
        return 1
    except BrokenPipeError:  # the server has ended
        return 1
    except (OSError, DiskError) as error:
        why = error.cause if isinstance(error, DiskError) else error.strerror
        emit(TrainingFailed(code="io_error", message=f"the training had a disk error: {why or error}"))
        return 1
    return 0


def emit(event: TrainerMessage) -> None:
    """Write an event as one line, and flush it."""
    sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
    sys.stdout.buffer.flush()


def _train(arguments: list[str]) -> None:
    if len(arguments) != 1:
        raise TrainingError("usage: python -m asyncgen.serve.training CONFIG.json", code="usage")
    config = read_config(Path(arguments[0]))
    for variable in THREAD_VARIABLES:
        os.environ[variable] = "1"
    from asyncgen.serve.training.train import train  # noqa: PLC0415 - imports numpy, which reads the environment

    train(config, emit, time.monotonic)


def _end_with_stdin() -> None:
    """End when stdin closes: the server holds its other end, and may have been killed."""
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
