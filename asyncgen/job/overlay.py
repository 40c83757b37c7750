"""Overlay the tables under `[on.NAME]` for the chosen providers.

`[on.X]` applies to the tables of generation if X generates, and to those of tuning if X tunes. The short prompt and its
system message belong to the tuned model, although they stand beside the long prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TUNING_TABLES = ("dataset", "finetune")
_TUNING_PROMPT_KEYS = ("sample", "target")
_TAKEN_AS_THEY_ARE = ("generate", "parameters")  # below this key, a table is the value of a parameter


def laid_over(raw: Mapping[str, Any], generation: str, tuning: str) -> dict[str, Any]:
    """The job's tables with the overlays: of `tuning` for the stage of tuning, of `generation` for the rest."""
    base = {key: value for key, value in raw.items() if key != "on"}
    overlays = table_in(raw, "on")
    first, _ = _by_stage(table_in(overlays, generation))
    _, second = _by_stage(table_in(overlays, tuning))
    return merged(merged(base, first), second)


def _by_stage(overlay: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split an overlay into the tables of generation and those of tuning."""
    generating = {key: value for key, value in overlay.items() if key not in _TUNING_TABLES}
    tuning = {key: value for key, value in overlay.items() if key in _TUNING_TABLES}
    if prompt := table_in(overlay, "prompt"):
        generating["prompt"] = {key: value for key, value in prompt.items() if key not in _TUNING_PROMPT_KEYS}
        tuning["prompt"] = {key: value for key, value in prompt.items() if key in _TUNING_PROMPT_KEYS}
    return generating, tuning


def merged(below: Mapping[str, Any], above: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Tables are merged key by key; `false` takes away what is below; anything else replaces it.

    Inside the value of a parameter `false` is a value like any other.
    """
    result = dict(below)
    is_value = path[: len(_TAKEN_AS_THEY_ARE)] == _TAKEN_AS_THEY_ARE and len(path) > len(_TAKEN_AS_THEY_ARE)
    for key, value in above.items():
        old = result.get(key)
        if value is False and key in result and not is_value:
            del result[key]
        elif isinstance(old, dict) and isinstance(value, dict):
            result[key] = merged(old, value, (*path, key))
        else:
            result[key] = value
    return result


def table_in(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The table of that name; an empty one where there is none."""
    value = raw.get(key, {})
    return value if isinstance(value, dict) else {}
