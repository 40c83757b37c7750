"""Download a tuned model's weights into a folder of their own, with a card for other programs.

Finds the job that made a model, names the files, and writes the card with the commands that serve them elsewhere.
Where the weights are is left to the tuners, the way to the disk to `fetch`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncgen.errors import UsageError
from asyncgen.finetune.api import AbsentError
from asyncgen.json_text import NotJsonError, decode_json
from asyncgen.providers.profiles import PROFILES
from asyncgen.run.directory import output_file, refuse_run_file
from asyncgen.run.whole_file import disk_error

if TYPE_CHECKING:
    from asyncgen.finetune.api import OnProgress, TunedWeights, Tuner, TuningJob

CARD = "README.md"
_ADAPTER_CONFIG = "adapter_config.json"
# Magic bytes of archives and their suffixes; `tar -xf` reads them all.
_ENDINGS = ((b"\x28\xb5\x2f\xfd", ".zst"), (b"\x1f\x8b", ".gz"))
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]")
_LONGEST_NAME = 200
_USUAL_RANK = 16  # vLLM accepts larger ranks only with an option


async def find_weights(tuner: Tuner, *, job_id: str | None, model: str | None, step: int | None) -> TunedWeights:
    """Find the weights that a job made, or those of a model.

    Args:
        tuner: the provider.
        job_id: the provider's id of the job; None to search the provider's jobs for the model.
        model: name of the model; None for the one that the job made.
        step: step of one of the job's checkpoints; None for the finished model.

    Returns:
        The files, with their addresses.

    Raises:
        UsageError: the job has not made a model.
        AbsentError: the provider does not hand out these weights.
    """
    if not tuner.finetuning.gives_weights:
        raise no_weights_error(tuner, model or job_id or "the model")
    job = await tuner.jobs.get(job_id) if job_id else await _maker(tuner, model)
    if model is None and job is not None and step is None and job.outcome != "succeeded":
        raise UsageError(f"{job.id} has no tuned model: its status is {job.status}", code="no_model")
    return await tuner.weights.find(model or (job.tuned_model if job else None), job, step)


async def _maker(tuner: Tuner, model: str | None) -> TuningJob | None:
    try:
        async for job in tuner.jobs.all():
            if job.tuned_model == model:
                return job
    except AbsentError:  # some servers have models but no list of jobs
        pass
    return None


def no_weights_error(tuner: Tuner, what: str) -> AbsentError:
    """Make the error of a provider that does not hand out weights."""
    able = [
        profile.name
        for profile in PROFILES.values()
        if profile.finetuning and profile.finetuning.gives_weights and profile.name != "custom"
    ]
    return AbsentError(
        f"{tuner.label} does not offer the weights of {what} for download",
        cause="models that are fine-tuned there can only be used there",
        help_text=f"fine-tune with a provider that does: --provider {', '.join(able)} (the dataset works with all of "
        "them)",
    )


def folder_name(weights: TunedWeights, step: int | None) -> str:
    """Choose a folder name for weights, which is never a job's id alone: other commands would take it for the job.

    Args:
        weights: the model's files.
        step: step of the checkpoint; None for the finished model.

    Returns:
        A name that is safe on every file system.
    """
    name = _UNSAFE.sub("_", weights.model.rpartition("/")[2])[:_LONGEST_NAME].lstrip(".") or "model"
    name = f"weights-{name}" if weights.model == weights.job else name
    return f"{name}-step-{step}" if step is not None else name


def target_paths(weights: TunedWeights, folder: Path) -> list[Path]:
    """Choose the local path of each file. Folders that all files share are left out.

    Args:
        weights: the model's files.
        folder: where to save them.

    Returns:
        A path for each of `weights.files`, in their order.

    Raises:
        UsageError: a name leads to a file of a run, or two files have the same path.
    """
    parts = [_safe_parts(file.name) for file in weights.files]
    while all(len(each) > 1 for each in parts) and len({each[0] for each in parts}) == 1:
        parts = [each[1:] for each in parts]
    paths = [folder.joinpath(*each) for each in parts]
    if len(set(paths)) < len(paths):
        raise UsageError("the server lists two files with the same name", code="bad_answer")
    for path in (*paths, folder / CARD):
        refuse_run_file(path)
    return paths


def _safe_parts(name: str) -> list[str]:
    found = [_UNSAFE.sub("_", part)[:_LONGEST_NAME] for part in re.split(r"[/\\]", name)]
    return [part for part in found if part.strip(".")] or ["weights"]


def in_the_way(paths: Sequence[Path], folder: Path) -> list[Path]:
    """List the files that would be overwritten.

    Args:
        paths: from `target_paths`.
        folder: where to save them.

    Returns:
        Those that exist.
    """
    wanted = [path for path in paths if path.suffix == ".tar"]
    archives = [path.with_name(path.name + ending) for path in wanted for _, ending in _ENDINGS]
    return [path for path in (*paths, *archives, folder / CARD) if path.exists()]


Bar = Callable[[str], AbstractContextManager["OnProgress"]]
"""Shows the progress of a file of that name while the block runs."""


async def download(tuner: Tuner, weights: TunedWeights, folder: Path, paths: Sequence[Path], bar: Bar) -> list[Path]:
    """Download all files, and write the card.

    Args:
        tuner: the provider.
        weights: the model's files.
        folder: where to save them.
        paths: from `target_paths`.
        bar: opens a progress bar for a file name.

    Returns:
        The files. Archives have got the suffix of their format.

    Raises:
        AsyncgenError: as `Downloader.fetch`; what was received is kept for the next attempt.
        DiskError: the folder cannot be created.
    """
    done, fetcher = [], tuner.make_fetcher()
    for file, path in zip(weights.files, paths, strict=True):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(f"{path.parent} could not be created", error) from error
        with bar(file.name) as on_progress:
            await fetcher.fetch(file, path, on_progress)
        done.append(_with_ending(path))
    with output_file(folder / CARD) as card:
        card.write(card_text(weights, folder, done, tuner.label).encode())
    return done


def _with_ending(path: Path) -> Path:
    if path.suffix != ".tar":
        return path
    with path.open("rb") as file:
        start = file.read(8)
    ending = next((ending for begins, ending in _ENDINGS if start.startswith(begins)), "")
    return path.rename(path.with_name(path.name + ending)) if ending else path


def serving_commands(weights: TunedWeights, folder: Path, files: Sequence[Path]) -> list[str]:
    """Write the commands that serve the model with llama.cpp (port 8080) or vLLM (port 8000).

    Args:
        weights: the model's files.
        folder: where they are.
        files: from `download`.

    Returns:
        Command lines, in order.
    """
    name = _UNSAFE.sub("_", weights.model.rpartition("/")[2])
    if gguf := next((file for file in files if file.suffix == ".gguf"), None):
        base = weights.base_path or weights.base_model
        return [f"llama-server -m {shlex.quote(base)} --lora {shlex.quote(str(gguf))} --port 8080"]
    if archive := next((file for file in files if ".tar" in file.suffixes), None):
        unpack = f"tar -xf {shlex.quote(str(archive))} -C {shlex.quote(str(folder))}"
        if archive.name.startswith("adapter"):
            return [unpack, _vllm(weights.base_model, name, folder, {})]
        return [unpack, f"vllm serve {shlex.quote(str(folder))}"]
    if config := next((file for file in files if file.name == _ADAPTER_CONFIG), None):
        settings = _json(config)
        base = str(settings.get("base_model_name_or_path") or weights.base_model)
        return [_vllm(base, name, config.parent, settings)]
    return [f"vllm serve {shlex.quote(str(folder))}"]


def _vllm(base: str, name: str, folder: Path, settings: dict[str, Any]) -> str:
    rank = settings.get("r")
    more = f" --max-lora-rank {rank}" if isinstance(rank, int) and rank > _USUAL_RANK else ""
    module = shlex.quote(f"{name}={folder}")
    return f"vllm serve {shlex.quote(base)} --enable-lora --lora-modules {module}{more}"


def _json(path: Path) -> dict[str, Any]:
    try:
        found = decode_json(path.read_bytes())
    except (OSError, NotJsonError):
        return {}
    return found if isinstance(found, dict) else {}


def card_text(weights: TunedWeights, folder: Path, files: Sequence[Path], provider: str) -> str:
    """The README of the folder."""
    base = f"{weights.base_model} ({weights.base_path})" if weights.base_path else weights.base_model
    facts = {"tuned model": weights.model, "base model": base, "fine-tuning job": weights.job, **weights.facts}
    rows = [f"| {name} | {value} |" for name, value in facts.items() if value not in (None, "")]
    return "\n".join([
        f"# {weights.model}",
        "",
        f"Fine-tuned at {provider}; downloaded by asyncgen. An adapter (LoRA) only works with its base model.",
        "",
        "| | |",
        "|---|---|",
        *rows,
        "",
        "Files: " + ", ".join(f"`{file.relative_to(folder)}`" for file in files),
        "",
        "To serve it:",
        "",
        *(f"    {command}" for command in serving_commands(weights, folder, files)),
        "",
    ])  # fmt: skip
