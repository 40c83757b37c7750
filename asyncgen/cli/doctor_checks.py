"""What `asyncgen doctor` looks at, each look a function that ends in one finding.

Owns the looks and their words. Sends one request, `GET /models`, which costs nothing. Does not print.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal

import aiohttp

from asyncgen import __version__
from asyncgen.errors import AsyncgenError
from asyncgen.json_text import NotJsonError, decode_loosely
from asyncgen.nearest import nearest
from asyncgen.providers.endpoint import Endpoint
from asyncgen.run.directory import is_held, newest_run

_ANSWER_S = 20.0
_CLOCK_S = 30.0
_LOW_BYTES = 500 * 1024 * 1024
_SHORT_LIFE_DAYS = 60
_UNAUTHORISED = (401, 403)
_OK = 200


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report; `next_step` is "" when there is nothing to do."""

    level: Literal["ok", "warn", "fail"]
    subject: str
    text: str
    next_step: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def versions() -> Iterator[Finding]:
    """Our own version, Python's, and those of the libraries that requests depend on."""
    names = ("aiohttp", "openai", "orjson", "msgspec", "uvloop", "xllamacpp", "numpy")
    found = []
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("ok", "versions", f"asyncgen {__version__}, {python}; {', '.join(found)}")


def disk(folder: Path) -> Iterator[Finding]:
    """Can runs be written here, and is there room?"""
    present = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(present, os.W_OK | os.X_OK):
        yield Finding("fail", "disk", f"{present} may not be written", "choose another place with --out")
        return
    free = shutil.disk_usage(present).free
    level: Literal["ok", "warn"] = "ok" if free >= _LOW_BYTES else "warn"
    step = "" if free >= _LOW_BYTES else "free some space: a million answers take about 1 GB"
    yield Finding(level, "disk", f"{free / 1e9:.1f} GB free for {folder}", step)


def run_lock(root: Path) -> Iterator[Finding]:
    """Is the newest run being written?"""
    try:
        run = newest_run(root)
    except AsyncgenError as error:
        yield Finding("ok", "run", error.what, error.help_text or "")
        return
    if is_held(run.path):
        yield Finding("warn", "run", f"{run.path} is being written", f"asyncgen status {run.path}")
    else:
        yield Finding("ok", "run", f"{run.path} is free")


def proxies() -> Iterator[Finding]:
    """Variables that would send requests through a proxy."""
    names = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    if found := [name for name in names if os.environ.get(name)]:
        yield Finding("warn", "proxy", f"{', '.join(found)} set", "asyncgen does not use proxies from the environment")


def local_model() -> Iterator[Finding]:
    """Is what the local server needs installed?"""
    missing = [name for name in ("xllamacpp", "numpy") if importlib.util.find_spec(name) is None]
    if missing:
        text = f"{' and '.join(missing)} not installed"
        yield Finding("fail", "local model", text, "pip install 'asyncgen[local]'")
    else:
        yield Finding("ok", "local model", "xllamacpp and numpy are installed; the server starts when it is needed")


def key(endpoint: Endpoint) -> Finding:
    """Where the key was found; never the key."""
    if endpoint.key is None:
        return Finding("ok", "key", "none is needed for an address on this machine")
    return Finding("ok", "key", f"{endpoint.key.hint()} from {endpoint.key.source}")


async def api(endpoint: Endpoint) -> list[Finding]:
    """Does the address answer as an API does, does it take the key, and does it have the model?"""
    headers = {"Authorization": f"Bearer {endpoint.key.reveal()}"} if endpoint.key else {}
    timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
    began = time.perf_counter()
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.get(f"{endpoint.base_url}/models", allow_redirects=False) as response,
        ):
            body = await response.content.read(16 * 1024 * 1024)
            status, date_header = response.status, response.headers.get("Date")
    except (aiohttp.ClientError, TimeoutError) as error:
        return [_unreachable(endpoint, error)]
    elapsed_ms = (time.perf_counter() - began) * 1000
    answered = Finding("ok", "address", f"{endpoint.base_url} answered in {elapsed_ms:.0f} ms with status {status}")
    return [answered, *_clock(date_header), *_models(endpoint, status, body)]


def _unreachable(endpoint: Endpoint, error: Exception) -> Finding:
    step = "check the address, the network and a proxy on the way"
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        step = "check this machine's clock, and whether a proxy changes certificates on the way"
    # Only the type: an exception's text may quote the request.
    return Finding("fail", "address", f"{endpoint.base_url} does not answer ({type(error).__name__})", step)


def _clock(date_header: str | None) -> Iterator[Finding]:
    with contextlib.suppress(TypeError, ValueError):
        there = parsedate_to_datetime(date_header or "")
        off_s = (datetime.now(UTC) - there).total_seconds()
        if abs(off_s) > _CLOCK_S:
            yield Finding("warn", "clock", f"{off_s:+.0f} s from the server's", "set this machine's clock")
        else:
            yield Finding("ok", "clock", "agrees with the server's")


def _models(endpoint: Endpoint, status: int, body: bytes) -> Iterator[Finding]:
    if status in _UNAUTHORISED:
        source = endpoint.key.source if endpoint.key else "no key"
        yield Finding("fail", "key", f"refused with status {status} ({source})", "make a new key, or check its rights")
        return
    try:
        models = {str(model["id"]): model for model in decode_loosely(body)["data"]}
    except (NotJsonError, KeyError, TypeError):
        yield Finding("warn", "model", "the address lists no models", "is it an API, and does the address end in /v1?")
        return
    if status != _OK:
        yield Finding("fail", "address", f"status {status}", "try again later")
    elif endpoint.model not in models:
        near = nearest(endpoint.model, models)
        step = f"did you mean {near}?" if near else f"it has {', '.join(list(models)[:5])}"
        yield Finding("fail", "model", f"{endpoint.model} is not there", step)
    else:
        yield _lifetime(endpoint.model, models[endpoint.model].get("shutdown_date"))


def _lifetime(model: str, shutdown_date: str | None) -> Finding:
    if not shutdown_date:
        return Finding("ok", "model", f"{model} is there")
    days = (date.fromisoformat(shutdown_date) - datetime.now(UTC).date()).days
    level: Literal["ok", "warn"] = "ok" if days > _SHORT_LIFE_DAYS else "warn"
    step = "" if days > _SHORT_LIFE_DAYS else "choose another with --model before then"
    return Finding(level, "model", f"{model} is there until {shutdown_date} ({days} days)", step)


def look_at_api(endpoint: Endpoint) -> list[Finding]:
    """The looks that need the network."""
    return [key(endpoint), *asyncio.run(api(endpoint))]
