"""`asyncgen doctor`: is everything there for a run? Each check is a function that returns one finding.

Sends one request, `GET /models`, which costs nothing.
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
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal

import click

from asyncgen import __version__
from asyncgen.cli.options import endpoint_options, file_argument, output_options
from asyncgen.cli.output import json_result, result
from asyncgen.errors import AsyncgenError, command_line, nearest
from asyncgen.job.opened import open_named_job
from asyncgen.json_text import NotJsonError, decode_loosely
from asyncgen.providers.choose import EndpointFlags, addressed_endpoint
from asyncgen.providers.endpoint import Endpoint, is_loopback, near_address, redacted
from asyncgen.providers.network import (
    CERTIFICATES_HELP,
    certificate_failure_reason,
    connection_failure_reason,
    encrypted_address,
    route_to,
    shown_target,
    speaks_no_tls,
)
from asyncgen.providers.profiles import LOCAL
from asyncgen.run.directory import newest_run
from asyncgen.run.lock import is_held
from asyncgen.terminal import counted

_ANSWER_S = 20.0
_CLOCK_S = 30.0
_LOW_BYTES = 500 * 1024 * 1024
_SHORT_LIFE_DAYS = 60
_UNAUTHORISED = (401, 403)
_OK, _ABSENT = 200, 404


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
    """Check that runs can be written here, and that there is disk space."""
    present = _present(folder)
    if not os.access(present, os.W_OK | os.X_OK):
        yield Finding("fail", "disk", f"{present} is not writable", "choose another folder with --out")
        return
    free = shutil.disk_usage(present).free
    level: Literal["ok", "warn"] = "ok" if free >= _LOW_BYTES else "warn"
    step = "" if free >= _LOW_BYTES else "free some space: a million answers take about 1 GB"
    yield Finding(level, "disk", f"{free / 1e9:.1f} GB free for {folder}", step)


def _present(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists: whether it is writable decides whether `folder` can be."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def run_lock(root: Path) -> Iterator[Finding]:
    """Check whether the newest run is being written."""
    try:
        run = newest_run(root)
    except AsyncgenError as error:
        yield Finding("ok", "run", error.what, error.help_text or "")
        return
    if is_held(run.path):
        yield Finding("warn", "run", f"{run.path} is being written", command_line("status", run.path))
    else:
        yield Finding("ok", "run", f"{run.path} is not in use")


def proxy(endpoint: Endpoint) -> Iterator[Finding]:
    """Report the proxy for the address."""
    if (found := route_to(endpoint).proxy) is not None:
        yield Finding("ok", "proxy", f"{endpoint.base_url} is reached through the proxy {found}")


def local_model() -> Iterator[Finding]:
    """Check that the local server's dependencies are installed, and that it can write its files."""
    missing = [name for name in ("xllamacpp", "numpy") if importlib.util.find_spec(name) is None]
    if missing:
        text = f"{' and '.join(missing)} not installed"
        yield Finding("fail", "local model", text, "pip install 'asyncgen[local]'")
        return
    from asyncgen.providers.local_server import default_data_folder  # noqa: PLC0415 - with the next, slow to import
    from asyncgen.serve.llama.model_files import default_models_folder  # noqa: PLC0415

    folders = {"XDG_DATA_HOME": default_data_folder()}
    if not os.environ.get("ASYNCGEN_MODEL_PATH"):
        folders["XDG_CACHE_HOME"] = default_models_folder()
    refused = {name: each for name, each in folders.items() if not os.access(_present(each), os.W_OK | os.X_OK)}
    for variable, folder in refused.items():
        yield Finding("fail", "local model", f"{folder} is not writable", f"set {variable} to a writable folder")
    if not refused:
        yield Finding("ok", "local model", "xllamacpp and numpy are installed; the server starts on demand")


def key(endpoint: Endpoint) -> Finding:
    """Report where the API key was found; never the key itself."""
    if endpoint.key is None:
        variable = endpoint.profile.key_variable
        return Finding("ok", "key", f"no key is sent: {variable} is not set" if variable else "none is needed")
    return Finding("ok", "key", f"{endpoint.key.hint()} from {endpoint.key.source}")


async def api(endpoint: Endpoint) -> list[Finding]:
    """Check that the address is an API, accepts the key, and has the model."""
    import aiohttp  # noqa: PLC0415 - takes time

    from asyncgen.generate.http.client import open_session  # noqa: PLC0415 - imports aiohttp

    began = time.perf_counter()
    try:
        async with (
            open_session(endpoint, concurrency=1) as (session, _),
            session.get(
                f"{endpoint.base_url}/models",
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=_ANSWER_S),
            ) as response,
        ):
            body = await response.content.read(16 * 1024 * 1024)
            status, headers = response.status, response.headers
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return [_unreachable(endpoint, error)]
    elapsed_ms = (time.perf_counter() - began) * 1000
    return [
        _address(endpoint, status, headers, body, f"in {elapsed_ms:.0f} ms"),
        *_clock(headers.get("Date")),
        *_models(endpoint, status, body),
    ]


def _unreachable(endpoint: Endpoint, error: Exception) -> Finding:
    """Why there is no answer; from the kind of the error, since its text may quote the request."""
    import aiohttp  # noqa: PLC0415 - takes time

    route = route_to(endpoint)
    target = f"the proxy {route.proxy}" if route.proxy else endpoint.base_url
    if speaks_no_tls(error):
        plain = endpoint.base_url.replace("https://", "http://", 1)
        return Finding("fail", "address", f"{endpoint.base_url} speaks http, not https", f"try {plain}")
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        text = f"no trusted connection to {endpoint.base_url}: {certificate_failure_reason(error)}"
        return Finding("fail", "address", text, CERTIFICATES_HELP)
    text = f"{target} does not answer: {connection_failure_reason(error)}"
    step = None if route.proxy else encrypted_address(endpoint.base_url, error)
    is_hosted = endpoint.base_url == endpoint.profile.base_url and not is_loopback(endpoint.base_url)
    if is_hosted:
        return Finding("fail", "address", text, "check the network, and the proxy if you need one (HTTPS_PROXY)")
    return Finding("fail", "address", text, step or "check the address, and that the server is running")


def _address(endpoint: Endpoint, status: int, headers: Mapping[str, str], body: bytes, when: str) -> Finding:
    """Check that an API answers there."""
    answered = f"{endpoint.base_url} answered {when} with status {status}"
    near = near_address(endpoint.base_url)
    if 300 <= status < 400:  # noqa: PLR2004 - redirects; they are never followed
        if "Location" not in headers:
            return Finding("fail", "address", f"{answered}: a redirect without an address", near or "check the address")
        target = shown_target(redacted(headers["Location"], endpoint.key))
        return Finding("fail", "address", f"{answered}: it redirects to {target}", "use that address with --base-url")
    if "html" in headers.get("Content-Type", "").lower() or body.lstrip()[:1] == b"<":
        return Finding(
            "fail",
            "address",
            f"{answered} and a web page, so this is not an API",
            near or "the address of an API usually ends in /v1",
        )
    if status == _ABSENT:  # some servers have no list of models
        level: Literal["warn", "fail"] = "fail" if near else "warn"
        return Finding(
            level, "address", f"{answered}: it has no /models", near or "asyncgen preview   (sends it a request)"
        )
    if status not in (_OK, *_UNAUTHORISED):
        return Finding("fail", "address", answered, "try again later, or look at the server's log")
    return Finding("ok", "address", answered)


def _clock(date_header: str | None) -> Iterator[Finding]:
    with contextlib.suppress(TypeError, ValueError):
        there = parsedate_to_datetime(date_header or "")
        off_s = (datetime.now(UTC) - there).total_seconds()
        if abs(off_s) > _CLOCK_S:
            yield Finding("warn", "clock", f"differs from the server's by {off_s:+.0f} s", "set this machine's clock")
        else:
            yield Finding("ok", "clock", "agrees with the server's")


def _models(endpoint: Endpoint, status: int, body: bytes) -> Iterator[Finding]:
    if status in _UNAUTHORISED:
        yield _refused_key(endpoint, status)
    if status != _OK:
        return
    try:
        models = {str(model["id"]): model for model in decode_loosely(body)["data"]}
    except (NotJsonError, KeyError, TypeError):
        models = {}
    if not models:
        if body.lstrip()[:1] != b"<":
            yield Finding("warn", "model", "the server does not list its models", near_address(endpoint.base_url) or "")
        return
    if endpoint.model in models:
        yield _lifetime(endpoint.model, models[endpoint.model].get("shutdown_date"))
        return
    near = nearest(endpoint.model, models)
    step = f"did you mean {near}?" if near else f"the server lists {', '.join(list(models)[:5])}"
    if _may_have_more(endpoint):
        text = f"{endpoint.model} is not listed; it may still work"
        yield Finding("warn", "model", text, step)
    else:
        yield Finding("fail", "model", f"the server has no model {endpoint.model}", step)


def _refused_key(endpoint: Endpoint, status: int) -> Finding:
    if endpoint.key is None:
        variable = endpoint.profile.key_variable
        step = f"export {variable}=..., or name a file with --api-key-file" if variable else "--api-key-file FILE"
        return Finding("fail", "key", f"the server requires one (status {status}), but none is set", step)
    text = f"refused with status {status} ({endpoint.key.source})"
    return Finding("fail", "key", text, "create a new key, or check its permissions")


def _may_have_more(endpoint: Endpoint) -> bool:
    """True if it may have models that it does not list: aliases, deployments, wildcards of a gateway."""
    profile = endpoint.profile
    return profile.base_url is None or profile.base_url != endpoint.base_url or is_loopback(endpoint.base_url)


def _lifetime(model: str, shutdown_date: object) -> Finding:
    if not shutdown_date:
        return Finding("ok", "model", f"{model} is available")
    try:
        days = (date.fromisoformat(str(shutdown_date)[:10]) - datetime.now(UTC).date()).days
    except ValueError:
        return Finding("ok", "model", f"{model} is available")
    level: Literal["ok", "warn"] = "ok" if days > _SHORT_LIFE_DAYS else "warn"
    step = "" if days > _SHORT_LIFE_DAYS else "choose another model with --model before then"
    return Finding(level, "model", f"{model} is available until {shutdown_date} ({counted(days, 'day')})", step)


def look_at_api(endpoint: Endpoint) -> list[Finding]:
    """Run the checks that need the network."""
    return [key(endpoint), *proxy(endpoint), *asyncio.run(api(endpoint))]


@click.command("doctor")
@file_argument
@endpoint_options
@output_options
def doctor(file: Path | None, as_json: bool, **where: Any) -> int:
    """Check versions, disk, API key, connection, TLS, clock and model for FILE. Costs nothing."""
    findings = _findings(file, EndpointFlags(**where))
    failed = any(finding.level == "fail" for finding in findings)
    if as_json:
        json_result({"ok": not failed, "checks": [finding.as_json() for finding in findings]})
        return int(failed)
    for finding in findings:
        result(f"{finding.level:4}  {finding.subject}: {finding.text}")
        if finding.next_step:
            result(f"      -> {finding.next_step}")
    return int(failed)


def _findings(file: Path | None, where: EndpointFlags) -> list[Finding]:
    runs = Path("runs")
    findings = [*versions(), *disk(runs), *run_lock(runs)]
    try:
        opened, generation, _ = open_named_job(file, where)
        text = f"{opened.file.label}: {counted(opened.grid.count, 'request')}, answered by {generation.profile.name}"
        findings.append(Finding("ok", "job", f"{text} ({generation.why})"))
        if generation.profile.name == LOCAL and not where.addresses:
            return [*findings, *local_model()]
        return [*findings, *look_at_api(addressed_endpoint(generation, where, opened.model))]
    except AsyncgenError as error:
        cause = f": {error.cause}" if error.cause else ""
        return [*findings, Finding("fail", "set-up", error.what + cause, error.help_text or "")]
