"""Convert the tables of a job file to typed ones, and collect every problem.

Parsing the TOML is left to `toml_text`, rules about values to `rules`.
"""

from __future__ import annotations

import math
import types
from collections import Counter
from datetime import date, datetime, time
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from asyncgen.errors import Problem, nearest
from asyncgen.job.cells import NoTextError, cell_text, value_text
from asyncgen.job.model import Example, Job, Prompt, ValuesFile

_DEEPEST = 100  # levels of tables and lists; a hand-written file has a handful
_LISTED = frozenset({"checks"})  # tables whose keys are always listed when one is unknown
_64_BITS = range(-(1 << 63), 1 << 63)
_WRONG = object()
_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table", list: "a list"}


def typed_job(raw: dict[str, Any], problems: list[Problem]) -> Job | None:
    """Convert tables to a typed job.

    Args:
        raw: tables of the job file, with overlays applied.
        problems: gets every problem found.

    Returns:
        The job; None if the problems leave none that can be checked further.
    """
    if _is_deeper(raw, _DEEPEST):
        problems.append(Problem("", f"nested more than {_DEEPEST} levels deep"))
        return None
    raw = dict(raw)
    grid = _grid(raw.pop("grid", {}), problems)
    if isinstance(prompt := raw.get("prompt"), dict) and "examples" in prompt:
        raw["prompt"] = {**prompt, "examples": _examples(prompt["examples"], problems)}
    job = _table(Job, raw, "", problems)
    return msgspec.structs.replace(job, grid=grid) if job is not None else None


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether tables and lists are nested deeper. Works level by level, since recursion might not end."""
    level: list[Any] = [value]
    for _ in range(levels):
        level = [
            item
            for each in level
            for item in (each.values() if isinstance(each, dict) else each)
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return True


def _table(struct: type[Any], raw: Any, key: str, problems: list[Problem]) -> Any:
    """One table as a struct; problems leave a field at its default, a missing required field leaves None."""
    if not isinstance(raw, dict):
        problems.append(Problem(key, f"expected a table, found {kind_of(raw)}"))
        return None
    fields = {field.name: field for field in msgspec.structs.fields(struct)}
    problems += [_unknown(key, name, list(fields)) for name in raw if name not in fields]
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


def _unknown(table: str, name: str, known: list[str]) -> Problem:
    near = nearest(name, known)
    listed = f"; possible: {', '.join(known)}" if near is None or table in _LISTED else ""
    return Problem(_join(table, name), f"unknown key{listed}", near)


def _value(wanted: Any, raw: Any, key: str, problems: list[Problem]) -> Any:
    struct = next((each for each in (wanted, *get_args(wanted)) if _is_struct(each)), None)
    if struct is not None and get_origin(wanted) is not list:
        found = _table(struct, raw, key, problems)
        return _WRONG if found is None else found
    if isinstance(raw, list) and all(isinstance(each, Example) for each in raw) and key == "prompt.examples":
        return raw
    before = len(problems)
    found = _checked(wanted, raw, key, problems)
    return found if len(problems) == before else _WRONG


def _checked(wanted: Any, raw: Any, key: str, problems: list[Problem]) -> Any:
    """A value of a simple type; problems with it are added to `problems`."""
    kinds = [each for each in get_args(wanted) if get_origin(each) is (list if isinstance(raw, list) else dict)]
    if get_origin(wanted) in {Union, types.UnionType} and len(kinds) == 1 and isinstance(raw, list | dict):
        wanted = kinds[0]
    origin = get_origin(wanted)
    if wanted is Any:
        _check_any(raw, key, problems)
    elif origin is list and isinstance(raw, list):
        return [_checked(get_args(wanted)[0], each, f"{key}[{at}]", problems) for at, each in enumerate(raw, 1)]
    elif origin is dict and isinstance(raw, dict):
        return {name: _checked(get_args(wanted)[1], each, _join(key, name), problems) for name, each in raw.items()}
    elif not _fits(wanted, raw):
        problems.append(Problem(key, f"expected {type_description(wanted)}, found {_shown(wanted, raw)}"))
    elif isinstance(raw, int | float) and not isinstance(raw, bool):
        _check_number(raw, key, problems, may_be_text=_fits(wanted, ""))
    return raw


def _check_any(raw: Any, key: str, problems: list[Problem]) -> None:
    """A value that is passed on as JSON."""
    if isinstance(raw, dict):
        for name, each in raw.items():
            _check_any(each, _join(key, name), problems)
    elif isinstance(raw, list):
        for at, each in enumerate(raw, 1):
            _check_any(each, f"{key}[{at}]", problems)
    elif isinstance(raw, int | float) and not isinstance(raw, bool):
        _check_number(raw, key, problems, may_be_text=True)


def _check_number(raw: float, key: str, problems: list[Problem], *, may_be_text: bool) -> None:
    if isinstance(raw, int) and raw not in _64_BITS:
        advice = "; write it as text, in quotes" if may_be_text else ""
        problems.append(Problem(key, f"a whole number beyond 64 bits{advice}"))
    elif not math.isfinite(raw):
        problems.append(Problem(key, f"{raw} is not a finite number"))


def _fits(wanted: Any, raw: Any) -> bool:
    """Whether the value is of the type; contents of lists and tables are checked by `_checked`."""
    origin = get_origin(wanted)
    if origin in {Union, types.UnionType}:
        return any(_fits(each, raw) for each in get_args(wanted))
    if origin is Literal:
        return raw in get_args(wanted)
    if wanted in {int, float} and isinstance(raw, bool):
        return False
    if wanted is float:
        return isinstance(raw, int | float)
    kind = origin or wanted
    return isinstance(kind, type) and isinstance(raw, kind)


def type_description(wanted: Any) -> str:
    """Describe a type of `model` for the reader.

    Args:
        wanted: the type.

    Returns:
        Such as "a list".
    """
    origin = get_origin(wanted)
    if origin in {Union, types.UnionType}:
        kinds = [each for each in get_args(wanted) if each is not type(None)]
        if {str, int, float} <= set(kinds):
            return "text or a number"
        return " or ".join(type_description(each) for each in kinds)
    if origin is Literal:
        return " or ".join(f'"{each}"' for each in get_args(wanted))
    return _NAMES.get(origin or wanted, "a value")


def _shown(wanted: Any, raw: Any) -> str:
    return f'"{raw}"' if "Literal" in str(wanted) and isinstance(raw, str) else kind_of(raw)


def kind_of(value: Any) -> str:
    """Describe the type of a TOML value for the reader.

    Args:
        value: as parsed.

    Returns:
        Such as "a list".
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime | date | time):
        return "a date or time"
    if isinstance(value, int | float):
        return f"the number {value:g}" if abs(value) < 1e300 else "a number"  # noqa: PLR2004 - a longer one says nothing
    return _NAMES.get(type(value), type(value).__name__)


def _grid(raw: Any, problems: list[Problem]) -> dict[str, Any]:
    if not isinstance(raw, dict):
        problems.append(Problem("grid", f"expected a table of axes, found {kind_of(raw)}"))
        return {}
    grid: dict[str, Any] = {}
    for name, values in raw.items():
        key = f"grid.{name}"
        if isinstance(values, dict):
            grid[name] = _table(ValuesFile, values, key, problems)
        elif isinstance(values, list):
            grid[name] = _axis(values, key, problems)
        else:
            problems.append(Problem(key, f'expected a list of values or {{ file = "..." }}, found {kind_of(values)}'))
    return {name: values for name, values in grid.items() if values is not None}


def _axis(values: list[Any], key: str, problems: list[Problem]) -> list[Any]:
    valid = []
    wrong: dict[str, None] = {}
    for value in values:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            wrong[f"expected text or numbers, found {kind_of(value)}"] = None
            continue
        try:
            value_text(value)
            valid.append(value)
        except NoTextError as error:
            wrong[str(error)] = None
    problems += [Problem(key, message) for message in wrong]
    if not values:
        problems.append(Problem(key, "an axis needs at least one value"))
    counts = Counter(cell_text(value, key) for value in valid)
    problems += [Problem(key, f"{value!r} occurs twice") for value, count in counts.items() if count > 1]
    return valid


def _examples(raw: Any, problems: list[Problem]) -> list[Example]:
    """Worked examples: `completion` and `opening` are ours, every other key is a variable."""
    examples = []
    for number, table in enumerate(raw if isinstance(raw, list) else [raw], 1):
        key = f"prompt.examples[{number}]"
        if not isinstance(table, dict):
            problems.append(Problem(key, f"expected a table, found {kind_of(table)}"))
            continue
        if (example := _example(table, key, problems)) is not None:
            examples.append(example)
    return examples


def _example(table: dict[str, Any], key: str, problems: list[Problem]) -> Example | None:
    rest = {name: value for name, value in table.items() if name not in Prompt.__struct_fields__}
    completion, opening = rest.pop("completion", None), rest.pop("opening", None)
    if not isinstance(completion, str) or not completion.strip():
        problems.append(Problem(f"{key}.completion", "missing: the answer of the example"))
        return None
    if opening is not None and (not isinstance(opening, int) or isinstance(opening, bool)):
        problems.append(Problem(f"{key}.opening", f"expected the number of an opening, found {kind_of(opening)}"))
        return None
    variables = {}
    for name, value in rest.items():
        try:
            variables[name] = str(value) if isinstance(value, bool | float) else value_text(value)
        except NoTextError as error:
            problems.append(Problem(f"{key}.{name}", str(error)))
    return Example(variables, completion, opening)


def _is_struct(wanted: Any) -> bool:
    return isinstance(wanted, type) and issubclass(wanted, msgspec.Struct)


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
