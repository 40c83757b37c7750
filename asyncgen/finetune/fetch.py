"""Stream a provider's file to disk: through a `.part` file that goes on where it ended, to a whole and checked file.

The key goes to the provider's own host alone: an address elsewhere, such as a signed one, is asked without it, and so
is what follows a redirect to another host. Which files there are is left to the tuners, their names to `download`.
Importing this module imports the SDK.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import httpx2
import openai

from asyncgen.errors import AsyncgenError, DiskError, RunInUseError
from asyncgen.finetune.json_calls import translated_errors
from asyncgen.json_text import NotJsonError, decode_json
from asyncgen.providers.choose import is_same_place
from asyncgen.providers.endpoint import is_loopback
from asyncgen.providers.network import shown_target
from asyncgen.providers.openai_client import open_http, retrying
from asyncgen.run.whole_file import as_disk_error, open_regular, sync_folder
from asyncgen.terminal import in_units

if TYPE_CHECKING:
    from io import BufferedRandom
    from pathlib import Path

    from asyncgen.finetune.api import OnProgress, RemoteFile
    from asyncgen.providers.endpoint import Endpoint
    from asyncgen.providers.openai_client import Pacing

_TIMEOUT = httpx2.Timeout(120.0, connect=10.0)  # without a byte; an archive may be made only when it is asked for
_MOST_REDIRECTS = 5
_ERROR_BYTES = 64 * 1024
_OK, _PART, _BEYOND = 200, 206, 416
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+)")
_OF_THE_BODY = frozenset({"content-encoding", "content-length", "transfer-encoding"})
_STATUS_ERRORS: dict[int, type[openai.APIStatusError]] = {404: openai.NotFoundError, 429: openai.RateLimitError}


class Downloader:
    """Downloads files of an endpoint, and of addresses that it names. Implements `FileFetcher`.

    Args:
        endpoint: its key is sent to its own host only.
        pacing: retry settings.
    """

    def __init__(self, endpoint: Endpoint, pacing: Pacing) -> None:
        self._endpoint = endpoint
        self._pacing = pacing

    async def fetch(self, file: RemoteFile, path: Path, on_progress: OnProgress) -> None:
        """Download a file as a stream. It appears at `path` complete, checked and synced, or not at all.

        Args:
            file: the file.
            path: where to save it; replaced if it exists. If this is interrupted, `path.part` stays, and the next call
                resumes it while the server has the same version of the file.
            on_progress: called with bytes received and bytes in total, 0 if unknown.

        Raises:
            OutageError: no complete answer, even after retries.
            AbsentError: the server does not have the file.
            AuthError: the server refuses the key.
            AsyncgenError: the server refuses, or the content does not match what was announced.
            RunInUseError: another process downloads to the same path.
            DiskError: it cannot be written, or the disk is too small for it.
        """
        with _locked_part(path) as part:
            await self._stream(file, part, on_progress)
            part.check(file)
            part.finish()

    async def _stream(self, file: RemoteFile, part: _Part, on_progress: OnProgress) -> None:
        async def once() -> None:
            await self._attempt(file, part, on_progress)

        with translated_errors(f"download {file.name}"):
            while True:
                before = part.size
                try:
                    return await retrying(once, self._pacing)
                except httpx2.TransportError:
                    if not part.tag or part.size <= before:  # keep trying as long as bytes arrive
                        raise

    async def _attempt(self, file: RemoteFile, part: _Part, on_progress: OnProgress) -> None:
        async with self._opened(file.url, part.range_headers()) as response:
            if response.status_code == _BEYOND and part.is_all(response):
                return
            if response.status_code == _BEYOND:
                part.restart("")
                raise httpx2.RemoteProtocolError("the server cannot continue the download")
            total = part.begin(response)
            on_progress(part.size, total)
            async for chunk in response.aiter_raw():  # unbuffered: buffered bytes would be lost with the connection
                part.append(chunk)
                on_progress(part.size, total)
            if total and part.size != total:
                raise httpx2.RemoteProtocolError(f"it ended after {part.size} of {total} bytes")

    @asynccontextmanager
    async def _opened(self, address: str, headers: dict[str, str]) -> AsyncIterator[httpx2.Response]:
        """The response to a GET, after redirects. Raises openai.APIStatusError for a refusal."""
        url, endpoint = urljoin(f"{self._endpoint.base_url}/", address), self._endpoint
        for _ in range(_MOST_REDIRECTS):
            endpoint = self._for(url, endpoint)
            async with (
                open_http(endpoint) as client,
                client.stream("GET", url, headers=headers, timeout=_TIMEOUT) as response,
            ):
                target = response.headers.get("location") if response.is_redirect else None
                if target is None:
                    await _refuse(response, is_signed=endpoint is not self._endpoint)
                    yield response
                    return
            url = urljoin(url, target)
        raise AsyncgenError(f"{shown_target(url)} redirects too often", help_text="run the same command again later")

    def _for(self, url: str, before: Endpoint) -> Endpoint:
        """The owner of an address: the provider, which gets the key, or another host, which does not from then on.

        Raises:
            AsyncgenError: the address is not encrypted, or leads from elsewhere to this machine.
        """
        is_theirs = is_same_place(url, self._endpoint.base_url) and urlsplit(url).scheme == _scheme(self._endpoint)
        if is_theirs and before is self._endpoint:
            return self._endpoint
        is_here = is_loopback(url)
        is_safe = is_loopback(self._endpoint.base_url) if is_here else urlsplit(url).scheme == "https"
        if not is_safe:
            raise AsyncgenError(
                f"the provider redirects to {shown_target(url)}, which is not safe to follow",
                cause="an address of this machine" if is_here else "it is not encrypted",
                code="bad_answer",
            )
        parts = urlsplit(url)
        return replace(self._endpoint, base_url=f"{parts.scheme}://{parts.netloc}", key=None, headers={})


def _scheme(endpoint: Endpoint) -> str:
    return urlsplit(endpoint.base_url).scheme


async def _refuse(response: httpx2.Response, *, is_signed: bool) -> None:
    """Raise the error of a response that contains no file."""
    status = response.status_code
    if status in {_OK, _PART, _BEYOND}:
        if str(response.headers.get("content-type") or "").startswith("text/html"):  # of a proxy, to sign in, say
            raise AsyncgenError(
                f"{response.url.host} sent a web page instead of the file",
                help_text="asyncgen doctor   (checks the address and the proxy)",
                code="bad_answer",
            )
        return
    if is_signed and status in {400, 401, 403, 410}:
        raise AsyncgenError(
            f"{response.url.host} refuses to send the file",
            cause=f"it answered with status {status}: the signed address may have expired",
            help_text="run the same command again: it requests a new address and continues where it stopped",
            code="expired",
        )
    said = await _beginning(response)
    try:
        body: object = decode_json(said)
    except NotJsonError:
        body = said.decode("utf-8", "replace")
    inner = body.get("error", body) if isinstance(body, dict) else body
    kind = _STATUS_ERRORS.get(status, openai.APIStatusError)
    headers = {name: value for name, value in response.headers.items() if name not in _OF_THE_BODY}
    # Whoever explains the error looks into the response, and a stream cannot be read again.
    whole = httpx2.Response(status, headers=headers, content=said, request=response.request)
    raise kind(f"status {status}", response=whole, body=inner)


async def _beginning(response: httpx2.Response) -> bytes:
    found = b""
    async for chunk in response.aiter_bytes(_ERROR_BYTES):
        found += chunk
        if len(found) >= _ERROR_BYTES:
            break
    return found[:_ERROR_BYTES]


@contextmanager
def _locked_part(path: Path) -> Iterator[_Part]:
    part = path.with_name(f"{path.name}.part")
    descriptor = open_regular(part, os.O_RDWR | os.O_CREAT)
    with as_disk_error(f"{part} could not be written"), os.fdopen(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunInUseError(
                f"another asyncgen process is downloading {path}", help_text="wait until it is done"
            ) from error
        found = _Part(path, part, file)
        try:
            yield found
        finally:
            if found.size == 0:  # nothing to resume
                found.remove()


class _Part:
    """The received part of a file, and the server's name for that version of it, in `NAME.part.tag`.

    Attributes:
        size: bytes received.
        tag: a strong ETag, or the time of the last change; "" if the server sends neither, and nothing is resumed.
    """

    def __init__(self, path: Path, part: Path, file: BufferedRandom) -> None:
        self._path, self._part, self._file = path, part, file
        self._tag_file = part.with_name(f"{part.name}.tag")
        self._hashes: dict[str, str] = {}
        self.size = file.seek(0, os.SEEK_END)
        self.tag = self._tag_file.read_text("utf-8") if self._tag_file.exists() else ""

    def range_headers(self) -> dict[str, str]:
        whole = {"Accept-Encoding": "identity"}  # part of a compressed file is useless
        if not self.size or not self.tag:
            return whole
        return {**whole, "Range": f"bytes={self.size}-", "If-Range": self.tag}

    def begin(self, response: httpx2.Response) -> int:
        """Use a response: append it, or start again if it contains the whole file.

        Returns the total size, 0 if unknown.
        """
        self._hashes |= _announced_hashes(response)
        found = _RANGE.fullmatch(response.headers.get("content-range", ""))
        if response.status_code == _PART and (found is None or int(found[1] or -1) != self.size):
            self.restart("")
            raise httpx2.RemoteProtocolError("the server sent a different part of the file than requested")
        if response.status_code == _PART and found is not None:
            total = int(found[2])
        else:
            self.restart(_version(response))
            total = int(response.headers.get("content-length") or 0)
        free = shutil.disk_usage(self._part.parent).free
        if total - self.size > free:
            raise DiskError(
                f"{self._path} needs {in_units(total - self.size)}, but only {in_units(free)} are free there",
                help_text="free some space, or choose another folder with -o; then run the same command again",
            )
        return total

    def is_all(self, response: httpx2.Response) -> bool:
        """Whether a refusal to go on says that all of it is there already."""
        found = _RANGE.fullmatch(response.headers.get("content-range", ""))
        return found is not None and int(found[2]) == self.size

    def restart(self, tag: str) -> None:
        """Throw away what is there, for a version of this name."""
        self._file.seek(0)
        self._file.truncate()
        self.size, self.tag = 0, tag
        self._tag_file.write_text(tag, "utf-8")

    def append(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self.size += len(chunk)

    def check(self, file: RemoteFile) -> None:
        """Compare with all that is known of the file; what differs is thrown away. Raises AsyncgenError."""
        self._file.flush()
        wrong = None
        if file.bytes is not None and file.bytes != self.size:
            wrong = f"it has {self.size:,} bytes, but {file.bytes:,} were announced"
        expected = self._hashes | ({"sha256": file.sha256} if file.sha256 else {})
        for name, value in expected.items():
            self._file.seek(0)
            if wrong is None and hashlib.file_digest(self._file, name).hexdigest() != value:
                wrong = f"its {name} differs from the announced one"
        if wrong:
            self.restart("")
            raise AsyncgenError(
                f"{file.name} arrived damaged",
                cause=wrong,
                help_text="run the same command again: it starts the download again",
                code="bad_download",
            )

    def remove(self) -> None:
        """Leave nothing behind."""
        self._part.unlink(missing_ok=True)
        self._tag_file.unlink(missing_ok=True)

    def finish(self) -> None:
        """Rename the part to the file."""
        os.fsync(self._file.fileno())
        self._part.replace(self._path)
        self._tag_file.unlink(missing_ok=True)
        sync_folder(self._path.parent)


def _version(response: httpx2.Response) -> str:
    etag = str(response.headers.get("etag") or "")
    if etag and not etag.startswith("W/"):
        return etag
    return str(response.headers.get("last-modified") or "")


def _announced_hashes(response: httpx2.Response) -> dict[str, str]:
    """The MD5 of the whole object, as Google's storage tells it with each answer, part or whole."""
    # cloud.google.com/storage/docs/xml-api/reference-headers, x-goog-hash: "crc32c=...,md5=..."
    for each in str(response.headers.get("x-goog-hash") or "").split(","):
        name, _, value = each.strip().partition("=")
        if name == "md5":
            try:
                return {"md5": base64.b64decode(value, validate=True).hex()}
            except binascii.Error:
                return {}
    return {}
