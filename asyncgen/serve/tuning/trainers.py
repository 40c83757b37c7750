"""Trainers as processes: read their messages, end them reliably, and run users' own commands.

For a command, makes its folder and checks the files that it names (`docs/trainer-protocol.md`). Jobs and models are
left to the callers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import sys
from collections import deque
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from asyncgen.dataset.export.train_with_trl import SCRIPT
from asyncgen.errors import UsageError
from asyncgen.json_text import NotJsonError
from asyncgen.serve.training import TrainingError
from asyncgen.serve.training.gguf import read_gguf
from asyncgen.serve.training.protocol import (
    TrainedCheckpoint,
    TrainerMessage,
    TrainingEnded,
    TrainingFailed,
    TrainingProgress,
    decode_message,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from asyncgen.serve.engine import (
        AnswerPiece,
        AnswerTokens,
        EngineAnswer,
        EngineTraits,
        ModelCall,
        ModelEngine,
        TrainingTask,
    )

BUILT_IN = "numpy"
_LINE_LIMIT = 1024 * 1024
_GRACE_S = 1.0
_COMMAND_GRACE_S = 5.0
_LAST_LINES = 5
_CHILD = (sys.executable, "-P", "-m", "asyncgen.serve.tuning.child")


def trainer_command(text: str) -> tuple[str, ...] | None:
    """Parse the value of --trainer.

    Args:
        text: "numpy" (the built-in trainer), "trl", or a command line.

    Returns:
        The command, to which the job's folder is appended; None for the built-in trainer.

    Raises:
        UsageError: it is not a command, or the preset's packages are missing.
    """
    if text == BUILT_IN:
        return None
    if text == "trl":
        return _trl()
    try:
        command = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"{text!r} is not a command", cause=str(error), help_text="quote it as in a shell") from error
    if not command or shutil.which(command[0]) is None:
        raise UsageError(
            f"there is no command {command[0] if command else text!r}",
            help_text=f"--trainer must be {BUILT_IN}, trl, or a command such as 'python train.py'",
        )
    return command


def _trl() -> tuple[str, ...]:
    script = str(SCRIPT)
    if find_spec("trl") and find_spec("peft"):
        return (sys.executable, "-P", script)
    if uv := shutil.which("uv"):
        return (uv, "run", script)  # uv reads the requirements from the script
    raise UsageError(
        "--trainer trl needs the packages trl and peft, or uv",
        help_text="pip install trl peft, or install uv, which fetches them for the training",
    )


async def trainer_messages(
    command: Sequence[str], *, grace_s: float = _GRACE_S, chatty: bool = False
) -> AsyncGenerator[TrainerMessage, None]:
    """Run a trainer's process. If it ends without a last message, `TrainingFailed` is yielded.

    Args:
        command: what to run; its stdin stays open as long as this server lives.
        grace_s: seconds that it may take to end after a signal.
        chatty: skip lines that are not messages; the last ones are shown if it fails.

    Yields:
        The trainer's messages.

    Raises:
        NotJsonError: a line is not a message, and the trainer is not chatty.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_LIMIT,
        start_new_session=True,
    )
    assert process.stdout is not None, "it is a pipe"
    others: deque[str] = deque(maxlen=_LAST_LINES)
    try:
        while line := await _line(process.stdout):
            try:
                message = decode_message(line)
            except NotJsonError:
                if not chatty:
                    raise
                others.append(line.decode("utf-8", "replace").strip())
                continue
            yield message
            if isinstance(message, TrainingEnded | TrainingFailed):
                return
        code = await process.wait()
        said = f": {' / '.join(filter(None, others))}" if any(others) else ""
        yield TrainingFailed(
            code="server_error", message=f"The training process ended unexpectedly (exit {code}){said}."
        )
    finally:
        await _end(process, grace_s)


async def _line(stream: asyncio.StreamReader) -> bytes:
    """Read the next line; what exceeds the limit of a line is skipped."""
    while True:
        try:
            return await stream.readline()
        except ValueError:  # the reader has discarded its buffer
            continue


async def _end(process: asyncio.subprocess.Process, grace_s: float) -> None:
    """Ask the process and its children to end, and kill them if they do not."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), grace_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


class _JobFile(msgspec.Struct, frozen=True, kw_only=True):
    """`job.json` in the trainer's folder."""

    model: str
    suffix: str | None
    hyperparameters: dict[str, int | float | str]
    seed: int
    samples: int


@dataclass(frozen=True, slots=True)
class OtherTrainer:
    """An engine that trains with a user's command.

    Attributes:
        engine: what answers.
        command: what trains; it is given the folder as its last argument.
    """

    engine: ModelEngine
    command: tuple[str, ...]

    @property
    def traits(self) -> EngineTraits:
        return replace(self.engine.traits, methods=frozenset({"supervised"}), tunes_any_model=True, notice="")

    async def complete(self, call: ModelCall) -> EngineAnswer:
        return await self.engine.complete(call)

    def stream(self, call: ModelCall) -> AsyncIterator[AnswerPiece | AnswerTokens]:
        return self.engine.stream(call)

    async def untunable(self) -> str | None:
        return None

    async def adopt(self, adapter: Path, /) -> None:
        await self.engine.adopt(adapter)

    async def close(self) -> None:
        await self.engine.close()

    async def train(self, task: TrainingTask) -> AsyncGenerator[TrainerMessage, None]:
        folder = task.folder / "trainer"
        await asyncio.to_thread(_write_job_folder, folder, task)
        base = self._base(task.model)
        command = (*_CHILD, *self.command, str(folder))
        yield TrainingProgress(message=f"Training with: {shlex.join(self.command)}")
        messages = trainer_messages(command, grace_s=_COMMAND_GRACE_S, chatty=True)
        async with contextlib.aclosing(messages):
            async for message in messages:
                for settled in await asyncio.to_thread(_with_absolute_paths, message, folder, base):
                    yield settled

    def _base(self, model: str) -> Path | None:
        """Path of the model to tune; None if it is not the one that answers here."""
        traits = self.traits
        return Path(traits.base_path) if traits.base_path and model == traits.base_model else None


def _write_job_folder(folder: Path, task: TrainingTask) -> None:
    """Write the folder that the command gets. Raises OSError."""
    shutil.rmtree(folder, ignore_errors=True)  # of a training that was interrupted
    folder.mkdir()
    shutil.copyfile(task.train, folder / "train.jsonl")
    if task.validation:
        shutil.copyfile(task.validation, folder / "validation.jsonl")
    job = _JobFile(
        model=task.model,
        suffix=task.suffix,
        hyperparameters=msgspec.to_builtins(task.hyperparameters),
        seed=task.seed,
        samples=task.samples,
    )
    (folder / "job.json").write_bytes(msgspec.json.encode(job))


def _with_absolute_paths(message: TrainerMessage, folder: Path, base: Path | None) -> list[TrainerMessage]:
    """Make the path that a message names absolute; copy an adapter that can be served into the job's folder.

    Args:
        message: of the trainer.
        folder: the job's folder.
        base: the model that answers here, if it is the one that was tuned: PEFT's adapters of it are converted.
    """
    if not isinstance(message, TrainedCheckpoint | TrainingEnded) or message.path is None:
        return [message]
    path = folder / message.path  # an absolute one stays as it is
    if not path.exists():
        why = f"The trainer named {message.path}, and there is no such file."
        return [TrainingFailed(code="trainer_error", message=why)]
    target = folder / (f"step-{message.step}.gguf" if isinstance(message, TrainedCheckpoint) else "final.gguf")
    notices: list[TrainerMessage] = []
    if base is not None and is_peft(path):
        notices, path = _converted(path, base, target)
    elif path.is_file() and is_adapter(path) and not path.resolve().is_relative_to(folder.resolve()):
        path = Path(shutil.copyfile(path, target))
    if path.is_dir() or not is_adapter(path):
        path = path.absolute()
    return [*notices, msgspec.structs.replace(message, path=str(path))]


def _converted(path: Path, base: Path, target: Path) -> tuple[list[TrainerMessage], Path]:
    """Convert an adapter for llama.cpp; returns messages and its path, or `path` if it cannot be converted."""
    from asyncgen.serve.training.lora import convert_peft  # noqa: PLC0415 - imports numpy

    try:
        convert_peft(path, base, target)
    except TrainingError as error:
        return [TrainingProgress(message=f"{path} is not served here: {error.sentence}")], path
    return [TrainingProgress(message=f"Converted for llama.cpp: {path}")], target


def is_peft(folder: Path) -> bool:
    """Whether a folder is an adapter as the PEFT library saves it."""
    return (folder / "adapter_config.json").is_file() and (folder / "adapter_model.safetensors").is_file()


def is_adapter(path: Path) -> bool:
    """Whether a file is a GGUF adapter."""
    try:
        return read_gguf(path).metadata.get("general.type") == "adapter"
    except TrainingError:
        return False
