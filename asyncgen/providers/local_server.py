"""Find this user's local server, or start it in the background.

The server ends by itself when no client is attached and no fine-tuning job is left: an interrupted or killed command
leaves its training running, and nothing else. Requests are left to the callers.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

import aiohttp
import msgspec

from asyncgen.errors import AsyncgenError, DiskError, RunInUseError
from asyncgen.json_text import NotJsonError, decode_json

Say = Callable[[str], None]

_QUANTISATION = re.compile(r"[.-](?:i?q\d\w*|f16|f32|bf16)$", re.IGNORECASE)
_SIMULATED = "simulated"
_START_S = 900.0  # the first start downloads the model
_TICK_S = 0.05
_LEAVING_S = 2.0  # time for a server to notice that its last client left


class ServerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """`server.json`: where the server of this folder listens.

    Attributes:
        base_url: up to and including `/v1`.
        pid: process id.
        version: release of asyncgen.
        engine: "llama" or "simulated".
        model: name of the base model.
        model_path: the model file; "" for the small model, and for a simulation.
        until_idle: whether it ends by itself when no client is attached.
    """

    base_url: str
    pid: int
    version: str
    engine: str
    model: str
    model_path: str = ""
    until_idle: bool = False


def default_data_folder() -> Path:
    """`asyncgen` in the user's data folder (`XDG_DATA_HOME`, else `~/.local/share`)."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "asyncgen"


def server_info(folder: Path) -> ServerInfo | None:
    """Read `server.json`. A server that was killed leaves its file behind.

    Args:
        folder: the server's data folder.

    Returns:
        Its content; None if the file is missing or damaged.
    """
    try:
        return decode_json((folder / "server.json").read_bytes(), ServerInfo)
    except (FileNotFoundError, NotJsonError):
        return None


def wanted_model_path(environment: Mapping[str, str] = os.environ) -> str:
    """The model file that the user's local server is to serve; "" for the small model."""
    path = environment.get("ASYNCGEN_MODEL_PATH")
    return str(Path(path).absolute()) if path else ""


def model_name_of_file(path: Path) -> str:
    """Derive the name under which a model file is served.

    Args:
        path: the GGUF file.

    Returns:
        The file's name in lower case, without suffix and quantisation.
    """
    return _QUANTISATION.sub("", path.stem).lower()


@asynccontextmanager
async def local_server(say: Say) -> AsyncIterator[str]:
    """Start the user's local server or find it running, and keep it running until the block ends.

    Args:
        say: called with the server's output while it starts.

    Yields:
        Its base URL.

    Raises:
        AsyncgenError: it does not start; the cause is the last output of the server.
    """
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=5)) as session:
        start = _Start(default_data_folder(), say)
        base_url, attached = await start.until_attached(session)
        try:
            yield base_url
        finally:
            attached.close()


class _Start:
    """Waits for a running server, and starts one if necessary.

    Args:
        folder: the server's data folder.
        say: called with the server's output.
    """

    def __init__(self, folder: Path, say: Say) -> None:
        self._say = say
        self._folder = folder
        self._log = folder / "server.log"
        self._server: subprocess.Popen[bytes] | None = None
        self._told = 0
        self._in_use_since: float | None = None

    async def until_attached(self, session: aiohttp.ClientSession) -> tuple[str, aiohttp.ClientResponse]:
        async with asyncio.timeout(_START_S):
            while (found := await self._attach(session)) is None:
                self._ensure_server()
                self._announce()
                await asyncio.sleep(_TICK_S)
        self._announce()
        return found

    async def _attach(self, session: aiohttp.ClientSession) -> tuple[str, aiohttp.ClientResponse] | None:
        info = server_info(self._folder)
        if info is None:
            return None
        root = info.base_url.removesuffix("/v1")
        try:
            if info.engine != _SIMULATED and info.model_path != wanted_model_path():
                await self._check_leaving(session, info, root)
                return None
            response = await session.get(f"{root}/asyncgen/attach")
        except (aiohttp.ClientConnectionError, TimeoutError):
            return None  # a killed server leaves its address behind
        if response.status == HTTPStatus.UNAUTHORIZED:
            raise AsyncgenError(
                f"the running local server (pid {info.pid}) requires a key",
                help_text=f"--base-url {info.base_url} --model {info.model} --api-key-file FILE, or stop that server",
                code="local_server",
            )
        if info.engine == _SIMULATED:
            self._say("warning: the running local server is a simulation: its answers and trainings are made up")
        return (info.base_url, response) if response.status == HTTPStatus.OK else None

    async def _check_leaving(self, session: aiohttp.ClientSession, info: ServerInfo, root: str) -> None:
        """Check that a server of another model is about to end by itself, which it does once nobody uses it.

        Raises:
            AsyncgenError: somebody uses it, or it was started to stay.
        """
        async with session.get(f"{root}/health") as response:
            health = await response.json(content_type=None)
        in_use = health.get("attached") or health.get("busy")
        self._in_use_since = (self._in_use_since or time.monotonic()) if in_use else None
        leaves_soon = not in_use or time.monotonic() - (self._in_use_since or 0) < _LEAVING_S
        if info.until_idle and leaves_soon:
            return
        wanted = wanted_model_path() or "the small model"
        raise AsyncgenError(
            f"the running local server (pid {info.pid}) serves {info.model_path or 'the small model'}",
            cause=f"ASYNCGEN_MODEL_PATH is set to {wanted}"
            if wanted_model_path()
            else "the small model is needed: ASYNCGEN_MODEL_PATH is not set",
            help_text=f"set ASYNCGEN_MODEL_PATH={info.model_path} to use it, or stop it with `kill {info.pid}`"
            if info.model_path
            else f"unset ASYNCGEN_MODEL_PATH to use it, or stop it with `kill {info.pid}`",
            code="local_server",
        )

    def _ensure_server(self) -> None:
        """Start a server; start again if it found another one that was ending."""
        code = self._server.poll() if self._server else RunInUseError.exit_code
        if code == RunInUseError.exit_code:
            self._server = self._started()
        elif code is not None:
            last_output = self._log.read_text(encoding="utf-8", errors="replace")[-2000:].strip()
            raise _not_started(last_output, code)

    def _started(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "asyncgen", "serve", "--until-idle", "--port", "0"]
        with self._open_log() as log:
            self._told = 0
            # A new session, so that Ctrl-C on this terminal does not reach the server.
            server = subprocess.Popen(  # noqa: S603 - our own program
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        # It may end long after this call; a program that still runs reaps it then.
        threading.Thread(target=server.wait, name="asyncgen-local-server", daemon=True).start()
        return server

    def _open_log(self) -> BinaryIO:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            return self._log.open("wb")
        except OSError as error:
            raise DiskError(
                f"the data folder {self._folder} cannot be used",
                cause=error.strerror,
                help_text="set XDG_DATA_HOME to a writable folder",
            ) from error

    def _announce(self) -> None:
        """Pass on the server's new output: the first start takes minutes, and says why."""
        if self._server is None:
            return
        with self._log.open("rb") as log:
            log.seek(self._told)
            words = log.read()
        whole, _, _ = words.rpartition(b"\n")
        for line in whole.decode("utf-8", "replace").splitlines():
            self._say(f"local server: {line}")
        self._told += len(whole) + (1 if whole else 0)


def _not_started(last_output: str, code: int) -> AsyncgenError:
    """The server's own error, as ours: its lines have the form that `output.show_error` writes."""
    found = dict(line.split(": ", 1) for line in last_output.splitlines() if line.startswith(("error: ", "cause: ")))
    helps = [line.removeprefix("help:").strip() for line in last_output.splitlines() if line.startswith("help:")]
    return AsyncgenError(
        "the local server did not start" + (f": {found['error']}" if "error" in found else f" (exit {code})"),
        cause=found.get("cause") or (None if "error" in found else last_output or None),
        help_text=helps[-1] if helps else "asyncgen serve   (shows its output)",
        code="local_server",
    )
