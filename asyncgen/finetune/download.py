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
# How archives begin, and what they are then called; `tar -xf` reads them all.
_ENDINGS = ((b"\x28\xb5\x2f\xfd", ".zst"), (b"\x1f\x8b", ".gz"))
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]")
_LONGEST_NAME = 200
_USUAL_RANK = 16  # vLLM takes larger ones only when told


async def find_weights(tuner: Tuner, *, job_id: str | None, model: str | None, step: int | None) -> TunedWeights:
    """The weights that a job made, or those of a model by its name.

    Args:
        tuner: the provider.
        job_id: None where it is not known: then the provider's list is searched for the model.
        model: None for whatever model the job has made.
        step: that of one of the job's checkpoints; None for the finished model.

    Raises:
        UsageError: the job has made no model.
        AbsentError: the provider gives no such weights out.
    """
    if not tuner.finetuning.gives_weights:
        raise gives_none(tuner, model or job_id or "the model")
    job = await tuner.jobs.get(job_id) if job_id else await _maker(tuner, model)
    if model is None and job is not None and step is None and job.outcome != "succeeded":
        raise UsageError(f"{job.id} made no model: it is {job.status}", code="no_model")
    return await tuner.weights.find(model or (job.tuned_model if job else None), job, step)


async def _maker(tuner: Tuner, model: str | None) -> TuningJob | None:
    try:
        async for job in tuner.jobs.all():
            if job.tuned_model == model:
                return job
    except AbsentError:  # a server may answer with models, and list no jobs
        pass
    return None


def gives_none(tuner: Tuner, what: str) -> AbsentError:
    """The refusal of a provider that keeps its weights."""
    able = [
        profile.name
        for profile in PROFILES.values()
        if profile.finetuning and profile.finetuning.gives_weights and profile.name != "custom"
    ]
    return AbsentError(
        f"{tuner.words} gives the weights of {what} to nobody",
        cause="a model that is tuned there answers there alone",
        help_text=f"tune with one that gives them: --provider {', '.join(able)} (the dataset serves them all)",
    )


def folder_name(weights: TunedWeights, step: int | None) -> str:
    """The folder's name where none is given: the model's; never a job's id alone, which other commands take."""
    name = _UNSAFE.sub("_", weights.model.rpartition("/")[2])[:_LONGEST_NAME].lstrip(".") or "model"
    name = f"weights-{name}" if weights.model == weights.job else name
    return f"{name}-step-{step}" if step is not None else name


def target_paths(weights: TunedWeights, folder: Path) -> list[Path]:
    """Where each file goes, in the order of the weights' files: the folders that all of them share are left out.

    Raises:
        UsageError: a name leads to a file of a run, or to the same place as another one.
    """
    parts = [_safe_parts(file.name) for file in weights.files]
    while all(len(each) > 1 for each in parts) and len({each[0] for each in parts}) == 1:
        parts = [each[1:] for each in parts]
    paths = [folder.joinpath(*each) for each in parts]
    if len(set(paths)) < len(paths):
        raise UsageError("the server gives two files the same name", code="bad_answer")
    for path in (*paths, folder / CARD):
        refuse_run_file(path)
    return paths


def _safe_parts(name: str) -> list[str]:
    found = [_UNSAFE.sub("_", part)[:_LONGEST_NAME] for part in re.split(r"[/\\]", name)]
    return [part for part in found if part.strip(".")] or ["weights"]


def in_the_way(paths: Sequence[Path], folder: Path) -> list[Path]:
    """The files that would be replaced."""
    wanted = [path for path in paths if path.suffix == ".tar"]
    archives = [path.with_name(path.name + ending) for path in wanted for _, ending in _ENDINGS]
    return [path for path in (*paths, *archives, folder / CARD) if path.exists()]


Bar = Callable[[str], AbstractContextManager["OnProgress"]]
"""Shows the progress of a file of that name while the block runs."""


async def download(tuner: Tuner, weights: TunedWeights, folder: Path, paths: Sequence[Path], bar: Bar) -> list[Path]:
    """Fetch all files, and write the card.

    Returns:
        The files, by the names that they have now: archives end as what they are.

    Raises:
        AsyncgenError: as `Downloader.fetch`; what arrived stays for the next attempt.
        DiskError: the folder cannot be made.
    """
    done = []
    for file, path in zip(weights.files, paths, strict=True):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(f"{path.parent} could not be made", error) from error
        with bar(file.name) as on_progress:
            await tuner.fetcher.fetch(file, path, on_progress)
        done.append(_with_ending(path))
    with output_file(folder / CARD) as card:
        card.write(card_text(weights, folder, done, tuner.words).encode())
    return done


def _with_ending(path: Path) -> Path:
    if path.suffix != ".tar":
        return path
    with path.open("rb") as file:
        start = file.read(8)
    ending = next((ending for begins, ending in _ENDINGS if start.startswith(begins)), "")
    return path.rename(path.with_name(path.name + ending)) if ending else path


def serving_commands(weights: TunedWeights, folder: Path, files: Sequence[Path]) -> list[str]:
    """What to type so that the model answers, OpenAI-compatible, by llama.cpp (port 8080) or vLLM (port 8000)."""
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
    """The README beside the files."""
    base = f"{weights.base_model} ({weights.base_path})" if weights.base_path else weights.base_model
    facts = {"tuned model": weights.model, "base model": base, "fine-tuning job": weights.job, **weights.facts}
    rows = [f"| {name} | {value} |" for name, value in facts.items() if value not in (None, "")]
    return "\n".join([
        f"# {weights.model}",
        "",
        f"Tuned at {provider}; downloaded by asyncgen. An adapter (LoRA) fits its base model alone.",
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
