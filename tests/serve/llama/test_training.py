"""The trainer's process, played by small programs."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncgen.serve.llama.training import trainer_messages, untunable
from asyncgen.serve.tuning.messages import End, Failed, Progress, TrainerMessage

if TYPE_CHECKING:
    from pathlib import Path


def told(program: str) -> list[TrainerMessage]:
    async def collect() -> list[TrainerMessage]:
        return [message async for message in trainer_messages((sys.executable, "-c", program))]

    return asyncio.run(collect())


def gone(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return False
    return True


def test_messages_are_passed_on_up_to_the_end() -> None:
    program = """print('{"type": "progress", "message": "a"}'); print('{"type": "end", "trained_tokens": 5}')"""
    assert told(program) == [Progress(message="a"), End(trained_tokens=5)]


def test_trainers_own_failure_is_the_last_message() -> None:
    program = """print('{"type": "error", "code": "c", "message": "m", "param": "p"}'); raise SystemExit(1)"""
    assert told(program) == [Failed(code="c", message="m", param="p")]


@pytest.mark.parametrize(
    ("program", "exit_code"), [("import os; os._exit(7)", "7"), ("import os; os.kill(os.getpid(), 9)", "-9")]
)
def test_crash_is_a_failure_with_the_exit_code(program: str, exit_code: str) -> None:
    [failure] = told(program)
    assert isinstance(failure, Failed)
    assert failure.code == "server_error"
    assert f"exit {exit_code}" in failure.message


def test_line_that_is_no_message_is_a_bug() -> None:
    with pytest.raises(msgspec.DecodeError):
        told("print('hello')")


@pytest.mark.parametrize("deaf", [False, True])
def test_closing_ends_the_process_within_two_seconds(deaf: bool) -> None:
    """Also where it does not listen to SIGTERM."""
    program = f"""
import os, signal, time
if {deaf}: signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('{{"type": "progress", "message": "%d"}}' % os.getpid(), flush=True)
time.sleep(60)
"""

    async def scenario() -> tuple[int, float]:
        async with aclosing(trainer_messages((sys.executable, "-c", program))) as messages:
            first = await anext(messages)
            assert isinstance(first, Progress)
            began = time.monotonic()
        return int(first.message), time.monotonic() - began

    pid, took_s = asyncio.run(scenario())
    assert gone(pid)
    assert took_s < 2


def test_cancelling_ends_the_process(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    program = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"

    async def consume() -> None:
        async with aclosing(trainer_messages((sys.executable, "-c", program))) as messages:
            async for _ in messages:
                pass

    async def scenario() -> None:
        task = asyncio.create_task(consume())
        async with asyncio.timeout(20):
            while not (mark.exists() and mark.read_text()):  # noqa: ASYNC110 - another process's mark
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(scenario())
    assert gone(int(mark.read_text()))


def test_file_that_is_no_model_cannot_be_tuned(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"not a model")
    assert untunable(path)
    assert untunable(tmp_path / "missing.gguf")
