"""An example of prompt and completion, as base models are trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncgen.dataset.rules.fault import Fault, kind, unknown_keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_KEYS = ("prompt", "completion")


def check_pair(example: Mapping[str, Any]) -> Iterator[Fault]:
    """What is wrong with one line of a file of prompts and completions."""
    yield from unknown_keys(example, _KEYS, "the example", fatal=True)
    for key in _KEYS:
        if not isinstance(example.get(key), str):
            yield Fault(key, f"`{key}` must be a string, not {kind(example.get(key))}")
    completion = example.get("completion")
    if isinstance(completion, str) and not completion.strip():
        yield Fault("empty_completion", "the completion is empty")
