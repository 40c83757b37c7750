"""The state of a run, `run.json`: typed, versioned, always written whole.

A new or changed field raises `VERSION`, because an older asyncgen would drop what it does not know. Locking is left to
`directory`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import msgspec

from asyncgen import __version__
from asyncgen.errors import AsyncgenError, DiskError, command_line
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
        name: the job's name; "" if it is unknown because `repair` rebuilt the file.
        folder: folder that relative paths in `job.toml` start from.
        file: path of the job file; "" for the built-in job.
        command: the command that resumes the run.
        generation_provider: the provider that answered last; selects the overlay of the generate tables.
        tuning_provider: the provider that tunes; selects the overlay of [dataset] and [finetune].
        model: the model that answers.
        fingerprint: part of the job to a short hash, to name what changed.
        requests: rows of the job; 0 if generation never began.
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
        usage: tokens of records, and of failures that were paid for.
        cost_usd: cost at the prices known when the answers arrived.
        unpriced: answers of models without a known price, not in `cost_usd`.
        unanswered_usd: upper bound of what attempts without an answer cost; counts towards the budget.
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
    """A merge of shards under way, noted so that a crash neither doubles a line nor counts its cost twice.

    Attributes:
        sizes: name of each of the run's own line files to its size in bytes before the merge.
        done: whether lines and spend are merged; only the shards' files are left to remove.
    """

    sizes: dict[str, int]
    done: bool = False


class ServerState(msgspec.Struct, frozen=True, kw_only=True):
    """A server that answered rows of the run.

    Attributes:
        provider: name of its profile.
        host: host and port of its address; "" for the local server that asyncgen starts itself.
        simulated: whether it is a simulation.
    """

    provider: str
    host: str
    simulated: bool = False


class RowAttempts(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The attempts of a row that has no line yet, kept so that retry limits hold across invocations.

    Attributes:
        attempts: HTTP calls.
        failed: attempts without an answer, except those refused by a rate limit.
        maybe_paid: failed attempts that the provider may have charged for.
        forgiven: of `maybe_paid`, those excused by --retry-failed.
    """

    attempts: Count
    failed: Count = 0
    maybe_paid: Count = 0
    forgiven: Count = 0


UNTRIED = RowAttempts(attempts=0)


class DatasetFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that `prepare` wrote.

    Attributes:
        name: file name in the run directory.
        sha256: hexadecimal hash of its content.
        samples: number of lines.
        bytes: size.
    """

    name: str
    sha256: str
    samples: Count
    bytes: Count


class DatasetState(msgspec.Struct, frozen=True, kw_only=True):
    """The dataset as prepared last.

    Attributes:
        files: `train.jsonl`, and `validation.jsonl` if there is one.
        format: "chat" or "completion".
        separator: ends every prompt of the completion format; `complete` adds it to prompts.
        ending: ends every completion of the completion format; `complete` sends it as the stop sequence.
        system: first message of every chat sample; None if there is none.
        validation: share of the combinations in the validation split, from 0 to 1.
        seed: seed of the split.
        turn: number of the start that the split uses; see `dataset.split`.
        ranks: values of each axis in the order in which the split first met them, so that added values move no sample
            to the other split.
        simulated: number of simulated samples.
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
    """A file at a provider, noted so that the same bytes are uploaded once.

    Attributes:
        provider: name of the profile.
        base_url: the provider's address.
        sha256: hexadecimal hash of the content.
        file_id: the provider's id.
        purpose: as in the API.
    """

    provider: str
    base_url: str
    sha256: str
    file_id: str
    purpose: str = "fine-tune"


class FinetuningState(msgspec.Struct, frozen=True, kw_only=True):
    """A fine-tuning job: noted before it is created, completed when its id is known.

    Attributes:
        intent: our own id, sent as the job's metadata or suffix, to find the job after a crash.
        provider: name of the profile.
        base_url: the provider's address.
        model: the model that is tuned.
        training_file: the provider's id of the file.
        validation_file: the provider's id of the file; None if there is none.
        suffix: part of the tuned model's name; None for the provider's choice.
        created: Unix seconds.
        job_id: the provider's id; None until its answer arrives.
        status: as the provider's API names it; "" before the first answer.
        last_event: id of the newest event in `events.jsonl`; None before the first.
        tuned_model: its name; None until the job succeeds.
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
    """A batch of requests at a provider. Its files are in `batches/`, named by its intent.

    Attributes:
        intent: our own id, sent as metadata, to find the batch after a crash.
        provider: name of the profile.
        base_url: the provider's address.
        model: the model that is asked.
        requests: number of requests.
        created: Unix seconds at which its files were written.
        held_usd: USD reserved from the budget; 0 without a budget.
        file_id: the provider's id of the input file; None before it is uploaded.
        batch_id: the provider's id; None until its answer arrives.
        status: as the provider's API names it; "" before the first answer. `FOUND_AGAIN` if `repair`, and `UNNOTED` if
            a start, made this note from the batch's files: the batch may have been sent, or not.
        answered: requests that the provider has answered so far.
        failed: requests that the provider could not answer so far.
        collected: whether its answers are in `records.jsonl` and `failures.jsonl`, and its keys released.
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
    """The whole of `run.json`. Change it with `msgspec.structs.replace`.

    Attributes:
        version: version of the file format.
        asyncgen: release that wrote it last.
        job: the job that the rows belong to.
        spend: tokens and USD, over all invocations.
        tried: key of a row without a line to its attempts.
        servers: servers that were asked, newest last.
        move: a move of records under way; None if there is none.
        fold: a merge of shards under way; None if there is none.
        dataset: the dataset as prepared last; None before `prepare`.
        uploads: files at providers.
        finetuning: fine-tuning jobs, newest last.
        batches: batches, newest last.
    """

    version: int = VERSION
    asyncgen: str = __version__
    job: JobState
    spend: Spend = Spend()
    tried: dict[str, RowAttempts] = {}
    servers: list[ServerState] = []
    move: MoveState | None = None
    fold: FoldState | None = None
    dataset: DatasetState | None = None
    uploads: list[UploadState] = []
    finetuning: list[FinetuningState] = []
    batches: list[BatchState] = []


def with_shards(state: RunState, shards: Sequence[RunState]) -> RunState:
    """Add the states of shards to that of their run.

    Args:
        state: of the run.
        shards: states of shards that are not merged yet.

    Returns:
        The run's state with the spend, duplicates, attempts and servers of all.
    """
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
    """Read a `run.json`.

    Args:
        path: the file.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: there is no such file.
        AsyncgenError: it was written by a newer release.
        DiskError: it is damaged, was not written by asyncgen, or cannot be read.
    """
    content = read_whole(path, _MAX_BYTES)
    try:
        written_by = _decode_version(content)
        if written_by.version > VERSION:
            raise _newer(path, written_by)
        return _sound(_decode_state(content))
    except NotJsonError as error:
        raise DiskError(
            f"{path} is damaged or was not written by asyncgen",
            cause=str(error),
            help_text=f"{command_line('repair', path.parent)}   (moves it away and rebuilds it from the records), or "
            "choose another folder with --out",
            code="bad_state",
        ) from error


def _sound(state: RunState) -> RunState:
    """Return the state if its parts fit together; types and ranges have been checked before.

    Raises:
        NotJsonError: they do not.
    """
    usage = state.spend.usage
    if min(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, usage.reasoning_tokens) < 0:
        raise NotJsonError("spend.usage: a count is below 0")
    for key in state.tried:
        if not _KEY.fullmatch(key):
            raise NotJsonError(f"tried: {key[:32]!r} is not the key of a request")
    return state


def write_state(path: Path, state: RunState) -> None:
    """Replace a `run.json` atomically.

    Args:
        path: the file.
        state: its new content.

    Raises:
        DiskError: it could not be written; the file is unchanged.
    """
    with replacing(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n")


def _newer(path: Path, written_by: _Version) -> AsyncgenError:
    return AsyncgenError(
        f"{path.parent} was written by a newer asyncgen ({written_by.asyncgen})",
        cause=f"it has format version {written_by.version}; this asyncgen ({__version__}) reads versions up to "
        f"{VERSION}",
        help_text="pip install --upgrade asyncgen, or choose another folder with --out",
        code="newer_run",
    )
