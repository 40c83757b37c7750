"""From TOML tables to typed ones, with every problem found and not the first only.

Owns names and types. Does not judge values beyond their type, and does not know where a table came from.
"""

from __future__ import annotations

import re
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from asyncgen.errors import Problem
from asyncgen.job.model import Example, Job, Prompt, ValuesFile
from asyncgen.nearest import nearest

_BACKQUOTES = re.compile(r"`([^`]*)`")


def typed_job(raw: dict[str, Any], problems: list[Problem]) -> Job | None:
    """The job that the tables give; None when a problem leaves no job to look at."""
    raw = dict(raw)
    grid = _grid(raw.pop("grid", {}), problems)
    if isinstance(prompt := raw.get("prompt"), dict) and "examples" in prompt:
        raw["prompt"] = {**prompt, "examples": _examples(prompt["examples"], problems)}
    job = _table(Job, raw, "", problems)
    return msgspec.structs.replace(job, grid=grid) if job is not None else None


def _table(struct: type[Any], raw: Any, key: str, problems: list[Problem]) -> Any:
    """One table as a struct; problems leave a field at its default, a missing required field leaves None."""
    if not isinstance(raw, dict):
        problems.append(Problem(key, f"expected a table, got {_kind(raw)}"))
        return None
    fields = {field.name: field for field in msgspec.structs.fields(struct)}
    unknown = [name for name in raw if name not in fields]
    problems += [Problem(_join(key, name), "unknown key", nearest(name, fields)) for name in unknown]
    hints = get_type_hints(struct)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in raw:
            found = _value(hints[name], raw[name], _join(key, name), problems)
            if found is not _WRONG:
                values[name] = found
        elif field.required:
            problems.append(Problem(_join(key, name), "missing"))
    required = {name for name, field in fields.items() if field.required}
    return struct(**values) if required <= values.keys() else None


_WRONG = object()


def _value(wanted: Any, raw: Any, key: str, problems: list[Problem]) -> Any:
    struct = next((each for each in (wanted, *get_args(wanted)) if _is_struct(each)), None)
    if struct is not None and get_origin(wanted) is not list:
        found = _table(struct, raw, key, problems)
        return _WRONG if found is None else found
    if isinstance(raw, list) and all(isinstance(each, Example) for each in raw) and key == "prompt.examples":
        return raw
    try:
        return msgspec.convert(raw, wanted)
    except msgspec.ValidationError as error:
        message = _BACKQUOTES.sub(r"\1", str(error)).replace(" - at $", " at item ").replace("Expected", "expected")
        problems.append(Problem(key, message))
        return _WRONG


def _grid(raw: Any, problems: list[Problem]) -> dict[str, Any]:
    if not isinstance(raw, dict):
        problems.append(Problem("grid", f"expected a table of axes, got {_kind(raw)}"))
        return {}
    grid: dict[str, Any] = {}
    for name, values in raw.items():
        key = f"grid.{name}"
        if isinstance(values, dict):
            grid[name] = _table(ValuesFile, values, key, problems)
        elif isinstance(values, list):
            grid[name] = _axis(values, key, problems)
        else:
            problems.append(Problem(key, f'expected a list of values or {{ file = "..." }}, got {_kind(values)}'))
    return {name: values for name, values in grid.items() if values is not None}


def _axis(values: list[Any], key: str, problems: list[Problem]) -> list[Any]:
    wrong = [value for value in values if isinstance(value, bool) or not isinstance(value, str | int | float)]
    problems += [Problem(key, f"expected text or numbers, got {_kind(value)}") for value in wrong[:1]]
    if not values:
        problems.append(Problem(key, "an axis needs at least one value"))
    kept = [value for value in values if value not in wrong]
    twice = [value for value in dict.fromkeys(kept) if kept.count(value) > 1] if len(kept) < _FEW else []
    problems += [Problem(key, f"{value!r} stands here twice") for value in twice]
    return kept


_FEW = 10_000  # looking for twins takes quadratic time; a list longer than this was not typed by hand


def _examples(raw: Any, problems: list[Problem]) -> list[Example]:
    """Worked examples: `completion` and `opening` are ours, every other key is a variable."""
    examples = []
    for number, table in enumerate(raw if isinstance(raw, list) else [raw], 1):
        key = f"prompt.examples[{number}]"
        if not isinstance(table, dict):
            problems.append(Problem(key, f"expected a table, got {_kind(table)}"))
            continue
        rest = {name: value for name, value in table.items() if name not in Prompt.__struct_fields__}
        completion, opening = rest.pop("completion", None), rest.pop("opening", None)
        if not isinstance(completion, str) or not completion.strip():
            problems.append(Problem(f"{key}.completion", "missing: the answer that the example shows"))
        elif opening is not None and (not isinstance(opening, int) or isinstance(opening, bool)):
            problems.append(Problem(f"{key}.opening", f"expected the number of an opening, got {_kind(opening)}"))
        else:
            examples.append(Example({name: str(value) for name, value in rest.items()}, completion, opening))
    return examples


def _is_struct(wanted: Any) -> bool:
    return isinstance(wanted, type) and issubclass(wanted, msgspec.Struct)


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _kind(value: Any) -> str:
    names = {dict: "a table", list: "a list", str: "text", bool: "a truth value", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)
