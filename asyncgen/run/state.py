"""The state of a run, `run.json`: typed, versioned, always written whole.

A new or changed field raises `VERSION`, because an older asyncgen would drop what it does not know. Locking is left to
`directory`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import msgspec

from asyncgen import __version__
from asyncgen.errors import AsyncgenError, DiskError
from asyncgen.json_text import NotJsonError, decoder
from asyncgen.run.records import Usage
from asyncgen.run.whole_file import read_whole, replacing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


VERSION = 5
FOUND_AGAIN = "found again"
UNNOTED = "not noted"
_MAX_BYTES = 256 * 1024 * 1024
_KEY = re.compile("[0-9a-f]{32}")
Count = Annotated[int, msgspec.Meta(ge=0)]
Usd = Annotated[float, msgspec.Meta(ge=0)]


class JobState(msgspec.Struct, frozen=True, kw_only=True):
    """The job that the rows belong to.

    Attributes:
        name: the job's name; "" where it is not known (the file was rebuilt by `repair`).
        folder: relative paths in `job.toml` start here.
        file: the job file itself; "" for the built-in job.
        command: the command that resumes the run.
        generation_provider: the provider that answered last; selects the overlay of the generate tables.
        tuning_provider: the provider that tunes; selects the overlay of [dataset] and [finetune].
        model: the one that answers.
        fingerprint: part of the job to a short hash, to name what changed.
        requests: rows of the job; 0 where generation never began.
        twins: of `requests`, duplicates of another row, counted when the job was last enumerated completely.
        stale: records that are no longer in the job.
        stale_failures: failures that are no longer in the job.
        renamed: records of the job with the variables of an earlier version of it.
    """

    name: str
    folder: str = ""
    file: str = ""
    command: str = ""
    generation_provider: str = ""
    tuning_provider: str = ""
    model: str = ""
    fingerprint: dict[str, str] = {}
    requests: Count = 0
    twins: Count = 0
    stale: Count = 0
    stale_failures: Count = 0
    renamed: Count = 0


class Spend(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens and USD of a run, over all invocations.

    Attributes:
        usage: tokens, of records and of failures that were paid for.
        cost_usd: at the prices known when the answers came.
        unpriced: answers of a model without a known price, not in `cost_usd`.
        unanswered_usd: upper bound of what attempts without an answer were charged; counts for the budget.
        records: lines of `records.jsonl` that are counted here; after a crash, the next start counts the rest.
    """

    usage: Usage = Usage()
    cost_usd: Usd = 0.0
    unpriced: Count = 0
    unanswered_usd: Usd = 0.0
    records: Count = 0


class MoveState(msgspec.Struct, frozen=True, kw_only=True):
    """A move of records out of `records.jsonl`, noted so that the spend stays correct after a crash.

    Attributes:
        lines_after: number of lines in the file after the move.
        counted_after: `Spend.records` after the move.
    """

    lines_after: Count
    counted_after: Count


class FoldState(msgspec.Struct, frozen=True, kw_only=True):
    """Shards that are being merged, so that a crash meanwhile neither doubles a line nor counts its cost twice.

    Attributes:
        sizes: bytes that the run's own line files had before, by their names.
        done: their lines and their spend are the run's now; what is left is to remove the shards' files.
    """

    sizes: dict[str, int]
    done: bool = False


class ServerState(msgspec.Struct, frozen=True, kw_only=True):
    """A server that was asked for rows of the run.

    Attributes:
        provider: its profile.
        host: of its address, with the port; "" for the local server that asyncgen starts itself.
        simulated: its answers say that they are made up.
    """

    provider: str
    host: str
    simulated: bool = False


class Tried(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The attempts of a row that has no line yet, so that retry limits hold across invocations.

    Attributes:
        attempts: HTTP calls.
        failed: attempts without an answer, except those refused by a rate limit.
        maybe_paid: failed attempts for which the provider may have charged.
        forgiven: of `maybe_paid`, those excused by --retry-failed.
    """

    attempts: Count
    failed: Count = 0
    maybe_paid: Count = 0
    forgiven: Count = 0


UNTRIED = Tried(attempts=0)


class DatasetFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that `prepare` wrote."""

    name: str
    sha256: str
    samples: Count
    bytes: Count


class DatasetState(msgspec.Struct, frozen=True, kw_only=True):
    """The dataset as prepared last.

    Attributes:
        files: `train.jsonl`, and `validation.jsonl` if there is one.
        format: "chat" or "completion".
        separator: ends every prompt of the completion format, so that `complete` can add it.
        ending: ends every completion of the completion format: the stop.
        system: the first message of every chat sample, so that `complete` can add it.
        validation: share of the combinations on the validation side, from 0 to 1.
        seed: of the split.
        turn: number of the start that the split uses; see `dataset.split`.
        ranks: the values of each axis in the order in which the split first met them, so that no sample changes
            its side when values are added.
        simulated: samples that a simulation made up.
    """

    files: list[DatasetFile]
    format: str
    separator: str = ""
    ending: str = ""
    system: str | None = None
    validation: float = 0.0
    seed: int = 0
    turn: int = 0
    ranks: dict[str, list[str]] = {}
    simulated: Count = 0


class UploadState(msgspec.Struct, frozen=True, kw_only=True):
    """A file at a provider; not uploaded again for the same bytes."""

    provider: str
    base_url: str
    sha256: str
    file_id: str
    purpose: str = "fine-tune"


class FinetuningState(msgspec.Struct, frozen=True, kw_only=True):
    """A fine-tuning job: noted before it is created, completed when its id is known.

    Attributes:
        intent: our own id, sent as the job's metadata or suffix, to find the job after a crash.
        job_id: None between the intent and the answer.
        status: as the provider's API names it; "" before the first answer.
        last_event: the id of the newest event in `events.jsonl`.
        tuned_model: once it succeeded.
        order: hash of the order, files included, so that the same job is not created twice.
    """

    intent: str
    provider: str
    base_url: str
    model: str
    training_file: str
    validation_file: str | None = None
    suffix: str | None = None
    created: int = 0
    job_id: str | None = None
    status: str = ""
    last_event: str | None = None
    tuned_model: str | None = None
    order: str = ""


class BatchState(msgspec.Struct, frozen=True, kw_only=True):
    """A batch of requests at a provider; its files are in `batches/`, named by its intent.

    Attributes:
        intent: our own id, sent as metadata, to find the batch after a crash.
        model: that is asked.
        requests: number of requests.
        created: Unix seconds at which its files were written.
        held_usd: reserved from the budget, if there is one.
        file_id: its input at the provider; None before the upload was answered.
        batch_id: None between the intent and the answer.
        status: as the provider's API names it; "" before the first answer; `FOUND_AGAIN` where `repair` made the
            note from the batch's files, `UNNOTED` where a start did: the batch may have been sent, or not.
        answered: requests that the provider has answered so far.
        failed: requests that the provider could not answer, so far.
        collected: its answers are in `records.jsonl` and `failures.jsonl`, and its keys are released.
    """

    intent: str
    provider: str
    base_url: str
    model: str
    requests: Count
    created: int = 0
    held_usd: Usd = 0.0
    file_id: str | None = None
    batch_id: str | None = None
    status: str = ""
    answered: Count = 0
    failed: Count = 0
    collected: bool = False


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of `run.json`; change it with `msgspec.structs.replace`.

    Attributes:
        version: of this form.
        asyncgen: the release that wrote it last.
        tried: key of a row that has no line yet to what was done for it.
        servers: that were asked, the newest last.
        move: of records, where one was begun and not ended.
        fold: of shards, likewise.
        finetuning: jobs, the newest last.
        batches: the newest last.
    """

    version: int = VERSION
    asyncgen: str = __version__
    job: JobState
    spend: Spend = Spend()
    tried: dict[str, Tried] = {}
    servers: list[ServerState] = []
    move: MoveState | None = None
    fold: FoldState | None = None
    dataset: DatasetState | None = None
    uploads: list[UploadState] = []
    finetuning: list[FinetuningState] = []
    batches: list[BatchState] = []


def with_shards(state: RunState, shards: Sequence[RunState]) -> RunState:
    """The state of a run with that of its shards added: what was spent, twins, what was tried, and who was asked."""
    spend, twins, tried = state.spend, state.job.twins, dict(state.tried)
    servers = {(each.provider, each.host): each for each in state.servers}
    for shard in shards:
        spend = _sum_of(spend, shard.spend)
        twins += shard.job.twins
        tried |= shard.tried
        for each in shard.servers:
            name = (each.provider, each.host)
            if each.simulated or name not in servers:
                servers[name] = each
    job = msgspec.structs.replace(state.job, twins=twins)
    return msgspec.structs.replace(state, job=job, spend=spend, tried=tried, servers=list(servers.values()))


def _sum_of(one: Spend, other: Spend) -> Spend:
    return Spend(
        usage=one.usage + other.usage,
        cost_usd=one.cost_usd + other.cost_usd,
        unpriced=one.unpriced + other.unpriced,
        unanswered_usd=one.unanswered_usd + other.unanswered_usd,
        records=one.records + other.records,
    )


class _Version(msgspec.Struct):
    version: Annotated[int, msgspec.Meta(ge=1)]
    asyncgen: str


_decode_version = decoder(_Version)
_decode_state = decoder(RunState)


def read_state(path: Path) -> RunState:
    """The state in the file `path`.

    Raises:
        FileNotFoundError: there is none.
        AsyncgenError: it is not ours, is damaged, or was written by a newer release.
        DiskError: it cannot be read.
    """
    content = read_whole(path, _MAX_BYTES)
    try:
        written_by = _decode_version(content)
        if written_by.version > VERSION:
            raise _newer(path, written_by)
        return _sound(_decode_state(content))
    except NotJsonError as error:
        raise DiskError(
            f"{path} is damaged, or was not written by asyncgen",
            cause=str(error),
            help_text=f"asyncgen repair {path.parent}   (sets it aside and rebuilds it from the records), "
            "or choose another place with --out",
            code="bad_state",
        ) from error


def _sound(state: RunState) -> RunState:
    """The state, when everything in it can be; types and ranges were looked at before.

    Raises:
        NotJsonError: it cannot.
    """
    usage = state.spend.usage
    if min(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, usage.reasoning_tokens) < 0:
        raise NotJsonError("spend.usage: a count is below 0")
    for key in state.tried:
        if not _KEY.fullmatch(key):
            raise NotJsonError(f"tried: {key[:32]!r} is not the key of a request")
    return state


def write_state(path: Path, state: RunState) -> None:
    """Put `state` in the place of what the file holds, in one step.

    Raises:
        DiskError: it could not be written; the file is as it was.
    """
    with replacing(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n")


def _newer(path: Path, written_by: _Version) -> AsyncgenError:
    return AsyncgenError(
        f"{path.parent} was written by a newer asyncgen ({written_by.asyncgen})",
        cause=f"its form is version {written_by.version}; this asyncgen, {__version__}, knows {VERSION}",
        help_text="pip install --upgrade asyncgen, or choose another place with --out",
        code="newer_run",
    )
