"""Names of tuned models: `ft:BASE:ORGANISATION:SUFFIX:ID`, as OpenAI makes them."""

from __future__ import annotations

import re

from asyncgen.serve.wire import new_id

_NOT_IN_A_SUFFIX = re.compile(r"[^a-z0-9_.-]+")


def tuned_name(base: str, organization: str, suffix: str | None) -> str:
    """A new name. The suffix is lower-cased, and what cannot stand in a name becomes a dash."""
    clean = _NOT_IN_A_SUFFIX.sub("-", (suffix or "").lower()).strip("-")
    return f"ft:{base}:{organization}:{clean}:{new_id('', 8)}"


def checkpoint_name(tuned: str, step: int) -> str:
    """The name of the model as it was after a step."""
    return f"{tuned}:ckpt-step-{step}"
