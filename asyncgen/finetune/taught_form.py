"""The form that a training file teaches: what every sample begins or ends with, so that a question can have it too.

Owns the guess from a file of somebody else's; a run's own dataset notes its form when it is made. Reads, changes
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

from asyncgen.json_text import decode_json
from asyncgen.jsonl import read_lines
from asyncgen.run_state import DatasetState

_NO_WORD_AT_THE_END = re.compile(r"\W*\Z")
# Endings without a line break that the legacy preparation tool offered; another one may well be a natural full stop.
_ENDINGS = frozenset({" END", " [END]", "***", "+++", "&&&", "$$$", "@@@", "%%%"})


def taught_form(path: Path) -> DatasetState:
    """The format, separator, ending and system message that all samples of the file share.

    Args:
        path: a training file that was found valid.

    Raises:
        DiskError: it cannot be read.
    """
    samples = _samples(path)
    first = next(samples, {})
    if "prompt" not in first and "completion" not in first:
        return DatasetState(files=[], format="chat", system=_common_system(first, samples))
    prompts, completions = str(first.get("prompt", "")), str(first.get("completion", ""))
    for sample in samples:
        prompts = common_suffix(prompts, str(sample.get("prompt", "")))
        completions = common_suffix(completions, str(sample.get("completion", "")))
    return DatasetState(files=[], format="completion", separator=separator_in(prompts), ending=ending_in(completions))


def _samples(path: Path) -> Iterator[dict[str, Any]]:
    for _, line in read_lines(path):
        sample = decode_json(line)
        if isinstance(sample, dict):
            yield sample


def _common_system(first: dict[str, Any], others: Iterator[dict[str, Any]]) -> str | None:
    system = _system(first)
    if system is None or any(_system(sample) != system for sample in others):
        return None
    return system


def _system(sample: dict[str, Any]) -> str | None:
    messages = sample.get("messages") or sample.get("input", {}).get("messages") or [{}]
    content = messages[0].get("content")
    return content if messages[0].get("role") in ("system", "developer") and isinstance(content, str) else None


def common_suffix(first: str, second: str) -> str:
    """What both texts end with."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(reversed(first), reversed(second), strict=False))
    return first[len(first) - sum(1 for _ in same) :]


def separator_in(suffix: str) -> str:
    """The separator in what all prompts end with: no letters or digits, which only happen to be the same."""
    found = _NO_WORD_AT_THE_END.search(suffix)
    return found[0] if found and len(found[0]) > 1 else ""


def ending_in(suffix: str) -> str:
    """The ending in what all completions end with; a full stop is none, or it would end the answer too early."""
    if "\n" in suffix:
        return suffix[suffix.index("\n") :]
    return next((ending for ending in _ENDINGS if suffix.endswith(ending)), "")
