"""Create a fine-tuning job exactly once, even if the process dies between the request and its answer.

Order: upload the files, note the intent, create the job, note its id. If a job may exist whose id was never noted, it
is looked up before another one is created. A file is uploaded once: its name at the provider contains its hash, and a
byte order mark is added if the provider wants one. Consent and output are left to `session`.
"""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import secrets
import shutil
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from msgspec.structs import replace

from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.finetune.api import (
    AbsentError,
    FileApi,
    JobOrder,
    OnProgress,
    OutageError,
    TrainingClosedError,
    Tuner,
    TuningJob,
    check_order,
    fingerprint,
    with_defaults,
)
from asyncgen.finetune.target import Notes, noted_file, with_intent, with_job, with_upload, without_intent
from asyncgen.run.state import FinetuningState, UploadState
from asyncgen.run.whole_file import disk_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

INTENT_KEY = "asyncgen_intent"
_ATTEMPTS = 3
_WAIT_S = 5.0
_CLOCKS_DIFFER_S = 300
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Dataset:
    """The files to train on and to validate with."""

    training: Path
    validation: Path | None = None


@dataclass(frozen=True, slots=True)
class Created:
    """A job that exists.

    Attributes:
        how: "new"; "recovered" if an earlier command created it and died before the answer; "noted" if the same job was
            created before and none was created now.
    """

    job: TuningJob
    how: Literal["new", "recovered", "noted"]


@dataclass(frozen=True, slots=True)
class ClockAndEntropy:
    """Clock and randomness.

    Attributes:
        now: Unix seconds.
        sleep: waits for a number of seconds.
        new_intent: returns a random id that was not used before.
    """

    now: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    new_intent: Callable[[], str] = field(default=lambda: f"asyncgen-{secrets.token_hex(8)}")


async def create(
    tuner: Tuner,
    notes: Notes,
    order: JobOrder,
    dataset: Dataset,
    *,
    another: bool = False,
    on_upload: OnProgress = lambda _sent, _size: None,
    clock: ClockAndEntropy | None = None,
) -> Created:
    """Create a job, or find it if it was created before. Idempotent.

    If the task is cancelled while the request is in flight, the answer is awaited and noted first.

    Args:
        tuner: the provider.
        notes: of the run.
        order: the job, without the ids of its files.
        dataset: its files, already validated.
        another: create a new one although the same job exists and has not failed.
        on_upload: called with the bytes sent and the size.
        clock: clock and randomness; None for the real ones.

    Returns:
        The job, and whether it is new.

    Raises:
        UsageError: the provider would refuse the order.
        TrainingClosedError: the account may not tune there.
        OutageError: the provider does not answer; the same command can be repeated.
        AuthError, QuotaError, AsyncgenError: the provider refused.
        DiskError: the notes cannot be written, or a file cannot be read.
    """
    order = with_defaults(order, tuner.finetuning)
    check_order(order, tuner.profile)
    with ExitStack() as stack:
        sources = await asyncio.to_thread(_sources, stack, tuner, dataset)
        digest = fingerprint(order, *(source.sha256 for source in sources))
        existing = await _existing(tuner, notes, digest, another=another)
        if existing is not None:
            return existing
        ids = [await upload_once(tuner, notes, source, on_upload) for source in sources]
    order = replace(order, training_file=ids[0], validation_file=ids[1] if len(ids) > 1 else None)
    submission = _Submission(tuner, notes, clock or ClockAndEntropy())
    return Created(await _to_its_end(submission.submitted(order, digest)), "new")


async def existing_job(
    tuner: Tuner, notes: Notes, order: JobOrder, dataset: Dataset, *, another: bool = False
) -> Created | None:
    """The job that `create` would find; None if it would create one. Raises as `create` does."""
    order = with_defaults(order, tuner.finetuning)
    check_order(order, tuner.profile)
    with ExitStack() as stack:
        sources = await asyncio.to_thread(_sources, stack, tuner, dataset)
        digest = fingerprint(order, *(source.sha256 for source in sources))
    return await _existing(tuner, notes, digest, another=another)


async def _existing(tuner: Tuner, notes: Notes, digest: str, *, another: bool) -> Created | None:
    recovered = await recover(tuner, notes)
    if digest in recovered:
        return Created(recovered[digest], "recovered")
    noted = None if another else await _same_job(tuner, notes, digest)
    return Created(noted, "noted") if noted else None


def _sources(stack: ExitStack, tuner: Tuner, dataset: Dataset) -> list[UploadSource]:
    paths = [dataset.training, *([dataset.validation] if dataset.validation else [])]
    finetuning = tuner.finetuning
    return [
        stack.enter_context(
            upload_source(path, byte_order_mark=finetuning.byte_order_mark, max_bytes=finetuning.max_bytes)
        )
        for path in paths
    ]


async def recover(tuner: Tuner, notes: Notes) -> dict[str, TuningJob]:
    """Recover jobs whose creation was requested by a command that died before the answer.

    Those that exist are noted with their ids; intents without a job are removed.

    Returns:
        Fingerprint of the order to job.

    Raises:
        OutageError, AuthError, AsyncgenError: the provider's jobs cannot be listed.
        DiskError: the notes cannot be written.
    """
    found = {}
    for intent in notes.state.finetuning:
        if intent.job_id is None and (intent.provider, intent.base_url) == (tuner.profile.name, tuner.place):
            job = await find_intended(tuner, notes, intent)
            if job is None:
                await _note(notes, lambda state, lost=intent: without_intent(state, lost))
            else:
                await _note(notes, lambda state, lost=intent, job=job: with_job(state, lost.intent, job))
                found[intent.order] = job
    return found


async def find_intended(tuner: Tuner, notes: Notes, intent: FinetuningState) -> TuningJob | None:
    """Find the provider's job that was created for an intent.

    It is identified by the intent in its metadata; if the provider keeps none, by its training file and time.

    Args:
        tuner: the provider.
        notes: of the run.
        intent: as noted.

    Returns:
        The job; None if there is none.
    """
    known = {noted.job_id for noted in notes.state.finetuning}
    oldest = intent.created - _CLOCKS_DIFFER_S
    async for job in tuner.jobs.all():
        if job.created < oldest:
            return None
        word = job.metadata.get(INTENT_KEY)
        is_ours = word == intent.intent or (word is None and job.training_file == intent.training_file)
        if is_ours and job.id not in known:
            return job
    return None


async def _same_job(tuner: Tuner, notes: Notes, digest: str) -> TuningJob | None:
    """The job that was created from the same order and files before, unless it failed or is gone."""
    for noted in reversed(notes.state.finetuning):
        here = (noted.provider, noted.base_url) == (tuner.profile.name, tuner.place)
        if noted.job_id and here and noted.order == digest:
            try:
                job = await tuner.jobs.get(noted.job_id)
            except AbsentError:
                continue
            if job.outcome not in ("failed", "cancelled"):
                return job
    return None


class _Submission:
    """The creation of one job."""

    def __init__(self, tuner: Tuner, notes: Notes, clock: ClockAndEntropy) -> None:
        self._tuner = tuner
        self._notes = notes
        self._clock = clock

    async def submitted(self, order: JobOrder, digest: str) -> TuningJob:
        intent = self._intent(order, digest)
        await _note(self._notes, lambda state: with_intent(state, intent))
        try:
            job = await self._requested(self._signed(order, intent), intent)
        except OutageError as error:
            raise _in_doubt(error) from error
        except AsyncgenError as error:
            await _note(self._notes, lambda state: without_intent(state, intent))
            raise self._refusal(error, order) from error
        await _note(self._notes, lambda state: with_job(state, intent.intent, job))
        return job

    async def _requested(self, order: JobOrder, intent: FinetuningState) -> TuningJob:
        """POST the order; after a lost answer, search for the job before the next POST."""
        for attempt in range(1, _ATTEMPTS):
            try:
                return await self._tuner.jobs.create(order)
            except OutageError:
                await self._clock.sleep(_WAIT_S * attempt)
                job = await find_intended(self._tuner, self._notes, intent)
                if job is not None:
                    return job
        return await self._tuner.jobs.create(order)

    def _intent(self, order: JobOrder, digest: str) -> FinetuningState:
        return FinetuningState(
            intent=self._clock.new_intent(),
            provider=self._tuner.profile.name,
            base_url=self._tuner.place,
            model=order.model,
            training_file=order.training_file,
            validation_file=order.validation_file,
            suffix=order.suffix,
            created=int(self._clock.now()),
            order=digest,
        )

    def _signed(self, order: JobOrder, intent: FinetuningState) -> JobOrder:
        if not self._tuner.finetuning.metadata:
            return order
        return replace(order, metadata={**order.metadata, INTENT_KEY: intent.intent})

    def _refusal(self, error: AsyncgenError, order: JobOrder) -> AsyncgenError:
        if error.code != TrainingClosedError.code:
            return error
        files = tuple(file for file in (order.training_file, order.validation_file) if file)
        return TrainingClosedError(self._tuner.profile, error.cause, files)


def _in_doubt(error: OutageError) -> OutageError:
    return OutageError(
        "it is not known whether the fine-tuning job was created",
        cause=error.cause,
        help_text="run the same command again later: it looks for the job before it creates one",
        code=error.code,
    )


async def _note(notes: Notes, change: Callable[..., object]) -> None:
    await asyncio.to_thread(notes.update, change)  # type: ignore[arg-type]


async def _to_its_end(work: Awaitable[T]) -> T:
    """Await `work`; if this task is cancelled meanwhile, wait for its end nevertheless."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


_NO_SUCH_METHOD = frozenset({"http_405", "http_501"})


_NAMED_BY = 16  # hexadecimal digits: no two files of one account share them


@dataclass(frozen=True, slots=True)
class UploadSource:
    """A file as it will be sent.

    Attributes:
        path: the file.
        sha256: hexadecimal hash of its content.
        bytes: size.
        filename: its name at the provider, which contains the hash.
    """

    path: Path
    sha256: str
    bytes: int
    filename: str


@contextmanager
def upload_source(path: Path, *, byte_order_mark: bool, max_bytes: int) -> Iterator[UploadSource]:
    """Open the file with or without a byte order mark, as the provider wants it; a temporary copy is made if necessary.

    Args:
        path: the file.
        byte_order_mark: whether it must begin with one.
        max_bytes: maximum size.

    Yields:
        The file to upload.

    Raises:
        DiskError: it cannot be read.
        UsageError: it is larger than `max_bytes`.
    """
    with tempfile.TemporaryDirectory(prefix="asyncgen-") as folder:
        try:
            wanted = _as_wanted(path, Path(folder), byte_order_mark=byte_order_mark)
            with wanted.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
        except OSError as error:
            raise disk_error(f"{path} could not be read", error) from error
        if size > max_bytes:
            raise UsageError(
                f"{path} has {size / 1024**2:,.0f} MB; the provider accepts at most {max_bytes / 1024**2:,.0f} MB"
            )
        yield UploadSource(wanted, sha256, size, f"{path.stem}-{sha256[:_NAMED_BY]}.jsonl")


def _as_wanted(path: Path, folder: Path, *, byte_order_mark: bool) -> Path:
    with path.open("rb") as file:
        marked = file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
        if marked == byte_order_mark:
            return path
        if not marked:
            file.seek(0)
        copy = folder / path.name
        with copy.open("wb") as target:
            target.write(codecs.BOM_UTF8 if byte_order_mark else b"")
            shutil.copyfileobj(file, target)
    return copy


async def upload_once(tuner: Tuner, notes: Notes, source: UploadSource, on_progress: OnProgress) -> str:
    """Upload a file, unless the provider already has these bytes.

    Args:
        tuner: the provider.
        notes: of the run.
        source: the file.
        on_progress: called with bytes sent and bytes in total.

    Returns:
        The provider's id of the file.

    Raises:
        OutageError: the provider cannot be reached.
        AuthError: the provider refuses the key.
        QuotaError: the account is empty.
        AsyncgenError: the provider refuses the file.
        DiskError: the file cannot be read, or the id cannot be noted.
    """
    file_id = await _uploaded_before(tuner, notes, source)
    if file_id is None:
        file_id = await tuner.files.upload(source.path, source.filename, on_progress)
    upload = UploadState(
        provider=tuner.profile.name, base_url=tuner.place, sha256=source.sha256, file_id=file_id, purpose="fine-tune"
    )
    await asyncio.to_thread(notes.update, lambda state: with_upload(state, upload))
    return file_id


async def _uploaded_before(tuner: Tuner, notes: Notes, source: UploadSource) -> str | None:
    noted = noted_file(notes.state, tuner.profile.name, tuner.place, source.sha256)
    if noted and await _exists(tuner.files, noted):
        return noted
    try:
        async for file in tuner.files.all():
            if file.filename == source.filename and file.bytes in (0, source.bytes):
                return file.id
    except AbsentError:  # a server that stores files, but does not list them
        return None
    except AsyncgenError as error:  # without the list the file is uploaded again
        if error.code not in _NO_SUCH_METHOD:
            raise
    return None


async def _exists(files: FileApi, file_id: str) -> bool:
    try:
        await files.get(file_id)
    except AbsentError:
        return False
    return True
