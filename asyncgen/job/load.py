"""Which line of a TOML text a key stands in, as far as a look at the text tells.

Owns that look: table headers and `key =` at the beginning of a line. The parser keeps no positions, so this is a
help for the reader of an error and never decides anything.

Parameters that a family of models is known to refuse.

Owns that knowledge for OpenAI's models (its deployment checklist and API description, read 2026-11): a request that
would be refused is refused here, before anything is sent, with the change to make. An unknown model is never judged.

The job file: found, read, laid over for the providers chosen, checked, and opened as a grid of requests.

Owns the order of these steps and the places (file, line, key) of what is wrong. Everything wrong is reported at once.
Does not know which providers are chosen: the command line tells.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from asyncgen.errors import JobFileError, Problem, UsageError
from asyncgen.job.combinations import Combinations
from asyncgen.job.model import Job, ValuesFile
from asyncgen.job.requests import RequestGrid
from asyncgen.job.rules import problems_of
from asyncgen.job.schema import typed_job
from asyncgen.job.tables import Table, TableError, cell_text, open_table, read_lines
from asyncgen.nearest import nearest
from asyncgen.providers.profiles import PROFILES, Profile

_HEADER = re.compile(r"\s*\[\[?\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""\s*(["']?[\w.-]+["']?)\s*=""")
_FENCE = re.compile(r'"""|\'\'\'')
_ITEM = re.compile(r"(.*)\[(\d+)\](.*)")


def line_of(text: str, key: str) -> int | None:
    """The 1-based line of a dotted key, or of the nearest table around it; None when neither is found.

    Args:
        text: the TOML document.
        key: such as `grid.city`, or `prompt.examples[2].size` for the second table of an array.
    """
    places = _places(text)
    while key:
        if key in places:
            return places[key]
        item = _ITEM.fullmatch(key)
        key = item[1] if item and not item[3] else key.rpartition(".")[0]
    return None


def _places(text: str) -> dict[str, int]:
    places: dict[str, int] = {}
    counts: dict[str, int] = {}
    table, fence = "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if fence:
            fence = "" if fence in line else fence
            continue
        if header := _HEADER.match(line):
            table = _bare(header[1])
            if line.lstrip().startswith("[["):
                counts[table] = counts.get(table, 0) + 1
                places.setdefault(table, number)
                table = f"{table}[{counts[table]}]"
            places.setdefault(table, number)
        elif key := _KEY.match(line):
            places.setdefault(f"{table}.{_bare(key[1])}".lstrip("."), number)
            fences = _FENCE.findall(line)
            fence = fences[0] if len(fences) == 1 else ""
    return places


def _bare(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))


_SAMPLING = ("temperature", "top_p", "logprobs", "top_logprobs")


@dataclass(frozen=True, slots=True)
class _Family:
    """Models whose names match, and the reasoning efforts they take; none: the parameter itself is refused."""

    pattern: re.Pattern[str]
    efforts: tuple[str, ...]

    @property
    def reasons(self) -> bool:
        return bool(self.efforts)


_GRADES = ("low", "medium", "high", "xhigh", "max")
_FAMILIES = (
    _Family(re.compile(r"gpt-6-luna|gpt-6\.1-terra"), ("none", *_GRADES)),
    _Family(re.compile(r"gpt-6\.1-sol|gpt-6-astra"), _GRADES),
    _Family(re.compile(r"gpt-6"), ("none", *_GRADES)),
    _Family(re.compile(r"gpt-5(?!\.)"), ("minimal", "low", "medium", "high")),
    _Family(re.compile(r"gpt-5\."), ("none", *_GRADES)),
    _Family(re.compile(r"(ft:)?(gpt-4|gpt-3\.5)"), ()),
)


def parameter_problems(model: str, parameters: Mapping[str, Any]) -> list[Problem]:
    """What `model` is known to refuse of these parameters; nothing for a model that is not known."""
    family = next((each for each in _FAMILIES if each.pattern.match(model)), None)
    if family is None:
        return []
    problems = _effort_problems(model, family, parameters.get("reasoning_effort"))
    if family.reasons and not problems:
        problems = _reasoning_problems(model, family, parameters)
    return problems


def _effort_problems(model: str, family: _Family, effort: Any) -> list[Problem]:
    key = "generate.parameters.reasoning_effort"
    if effort is None or effort in family.efforts:
        return []
    if not family.reasons:
        return [Problem(key, f"{model} does not reason and refuses it; take it out")]
    return [Problem(key, f"{model} refuses {effort!r}; it takes {', '.join(family.efforts)}")]


def _reasoning_problems(model: str, family: _Family, parameters: Mapping[str, Any]) -> list[Problem]:
    problems = []
    if "max_tokens" in parameters:
        text = f"{model} refuses it; call it max_completion_tokens, which counts hidden reasoning too"
        problems.append(Problem("generate.parameters.max_tokens", text))
    if parameters.get("reasoning_effort") == "none":
        return problems
    cure = 'set reasoning_effort = "none" beside it' if "none" in family.efforts else "take it out"
    return problems + [
        Problem(f"generate.parameters.{name}", f"{model} refuses it while it reasons; {cure}")
        for name in _SAMPLING
        if name in parameters
    ]


BUILT_IN_NAME = "built-in job"
# Whose tables lie over which: those of a stage are laid over by the provider of that stage. The short prompt is the
# tuned model's, though it stands beside the long one.
_TUNING_TABLES = ("dataset", "finetune")
_TUNING_PROMPT_KEYS = ("sample",)


@dataclass(frozen=True, slots=True)
class JobFile:
    """A job file that holds a checked job for every provider it names.

    Attributes:
        path: None for the built-in job.
        folder: relative paths in the file start here.
        text: the file as it is.
    """

    path: Path | None
    folder: Path
    text: str
    raw: Mapping[str, Any]

    @property
    def label(self) -> str:
        return str(self.path) if self.path else BUILT_IN_NAME

    @property
    def generation_provider(self) -> str:
        """`generate.provider` as the file has it."""
        return str(_get(self.raw, "generate").get("provider", "auto"))

    @property
    def tuning_provider(self) -> str:
        """`finetune.provider` as the file has it."""
        return str(_get(self.raw, "finetune").get("provider", "auto"))

    def job(self, generation: str, tuning: str) -> Job:
        """The job with `[on.NAME]` laid over.

        Of `tuning` for [dataset], [finetune] and the tuned model's short prompt; of `generation` for the rest.
        """
        problems: list[Problem] = []
        job = typed_job(_laid_over(self.raw, generation, tuning), problems)
        assert job is not None
        assert not problems
        return job


def built_in_text() -> str:
    """The built-in job file, comments and all."""
    return resources.files("asyncgen.job").joinpath("direct_marketing.toml").read_text(encoding="utf-8")


def read_job_file(path: Path | None, folder: Path | None = None) -> JobFile:
    """Read and check a job file.

    Args:
        path: None for the built-in job.
        folder: where relative paths start; the file's own folder when None.

    Raises:
        UsageError: the file cannot be read.
        JobFileError: it is wrong, with every problem found.
    """
    text = _read(path) if path else built_in_text()
    label = str(path) if path else BUILT_IN_NAME
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise JobFileError(f"{label} is not TOML", (Problem("", str(error), file=label),)) from error
    file = JobFile(path, folder or (path.parent if path else Path()), text, raw)
    problems = list(dict.fromkeys(_all_problems(file)))
    if problems:
        raise job_file_error(file, problems)
    return file


def open_grid(file: JobFile, job: Job, profile: Profile, model: str) -> RequestGrid:
    """The requests of `job` for a model.

    Args:
        file: where the job came from, for paths and places.
        job: as `file` gives it for the providers chosen.
        profile: who will answer.
        model: who is asked.

    Raises:
        JobFileError: a file of values is wrong, the model refuses a parameter, or the provider cannot begin answers.
    """
    problems: list[Problem] = []
    if job.prompt.openings and not profile.continues_assistant:
        text = f"{profile.name} does not continue an answer that was begun; leave openings to [on.NAME.prompt]"
        problems.append(Problem("prompt.openings", text))
    problems += parameter_problems(model, job.generate.parameters)
    table = _table(file, job, problems)
    axes = {name: _axis(file, name, values, problems) for name, values in job.grid.items()}
    if problems:
        raise job_file_error(file, problems)
    subset = (job.subset.size, job.subset.seed) if job.subset else None
    return RequestGrid(job, Combinations(axes, table, subset), model)


def job_file_error(file: JobFile, problems: list[Problem]) -> JobFileError:
    """The error for these problems, each with its file and line."""
    placed = tuple(
        replace(each, file=each.file or file.label, line=each.line or line_of(file.text, each.key)) for each in problems
    )
    count = "1 problem" if len(placed) == 1 else f"{len(placed)} problems"
    return JobFileError(
        f"{count} in {file.label}",
        placed,
        help_text="correct the job file; `asyncgen plan` checks it and sends nothing",
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(
            f"there is no job file {path}", help_text=f"asyncgen init {path} writes the built-in one to start from"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else f"not UTF-8 at byte {error.start}"
        raise UsageError(f"{path} cannot be read", cause=cause) from error


def _all_problems(file: JobFile) -> Iterator[Problem]:
    """Problems of the tables as they stand, then those that only an overlay brings."""
    raw = {key: value for key, value in file.raw.items() if key != "on"}
    yield from (plain := _problems(file, raw))
    overlays = file.raw.get("on", {})
    if not isinstance(overlays, dict):
        yield Problem("on", "expected tables [on.PROVIDER....]")
        return
    for name, overlay in overlays.items():
        if name not in PROFILES:
            known = ", ".join(PROFILES)
            yield Problem(f"on.{name}", f"no such provider; they are {known}", nearest(name, PROFILES))
        elif not isinstance(overlay, dict):
            yield Problem(f"on.{name}", "expected a table")
        else:
            found = _problems(file, _merged(raw, overlay))
            yield from (replace(each, key=f"on.{name}.{each.key}") for each in found if each not in plain)


def _problems(file: JobFile, raw: dict[str, Any]) -> list[Problem]:
    problems: list[Problem] = []
    job = typed_job(raw, problems)
    if job is not None:
        broken: list[Problem] = []
        table = _table(file, job, broken)
        if not broken:
            broken = problems_of(job, table.columns if table is not None else ())
        problems += broken
    return problems


def _laid_over(raw: Mapping[str, Any], generation: str, tuning: str) -> dict[str, Any]:
    base = {key: value for key, value in raw.items() if key != "on"}
    overlays = _get(raw, "on")
    first, _ = _by_stage(_get(overlays, generation))
    _, second = _by_stage(_get(overlays, tuning))
    return _merged(_merged(base, first), second)


def _by_stage(overlay: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """An overlay in two: what counts for who generates, and what for who tunes."""
    generating = {key: value for key, value in overlay.items() if key not in _TUNING_TABLES}
    tuning = {key: value for key, value in overlay.items() if key in _TUNING_TABLES}
    if prompt := _get(overlay, "prompt"):
        generating["prompt"] = {key: value for key, value in prompt.items() if key not in _TUNING_PROMPT_KEYS}
        tuning["prompt"] = {key: value for key, value in prompt.items() if key in _TUNING_PROMPT_KEYS}
    return generating, tuning


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged key by key; anything else above replaces what is below."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _get(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = raw.get(key, {})
    return value if isinstance(value, dict) else {}


def _table(file: JobFile, job: Job, problems: list[Problem]) -> Table | None:
    if job.rows is None:
        return None
    return _opened(file, "rows.file", job.rows.file, problems)


def _opened(file: JobFile, key: str, name: str, problems: list[Problem]) -> Table | None:
    try:
        return open_table(file.folder / name)
    except (OSError, TableError) as error:
        problems.append(_file_problem(key, name, error))
        return None


def _axis(file: JobFile, name: str, values: list[Any] | ValuesFile, problems: list[Problem]) -> list[str]:
    """An axis' values; a file's are taken once each, in the order of their first place."""
    key = f"grid.{name}"
    if isinstance(values, list):
        return [cell_text(value, name, None) for value in values]
    found: list[str] = []
    if values.column is not None:
        table = _opened(file, key, values.file, problems)
        if table is not None and values.column not in table.columns:
            text = f"{values.file} has no column {values.column!r}; it has {', '.join(table.columns)}"
            problems.append(Problem(key, text, nearest(values.column, table.columns)))
        elif table is not None:
            place = table.columns.index(values.column)
            found = [row[place] for row in table]
    else:
        try:
            found = read_lines(file.folder / values.file)
        except (OSError, TableError) as error:
            problems.append(_file_problem(key, values.file, error))
    if not found and not problems:
        problems.append(Problem(key, f"{values.file} has no values"))
    return list(dict.fromkeys(found))


def _file_problem(key: str, name: str, error: OSError | TableError) -> Problem:
    if isinstance(error, TableError):
        place = f"{name}:{error.line}" if error.line else name
        return Problem(key, f"{place}: {error}")
    return Problem(key, f"{name}: {error.strerror}")
