"""Announced shutdown dates of models.

A small dated table for OpenAI's models, tuned ones included. A model may have a date and not be in it: the
`shutdown_date` that a server gives with a model takes precedence.
"""

from __future__ import annotations

import re
from datetime import date

from asyncgen.providers.training_prices import base_model

READ_ON = date(2026, 11, 22)

# developers.openai.com/api/docs/deprecations. Undated names, so that every snapshot of a model is found by them.
_OPENAI = {
    date(2026, 9, 28): ("davinci-002", "babbage-002", "gpt-3.5-turbo-instruct"),
    date(2026, 10, 23): (
        "gpt-3.5-turbo",
        "gpt-4",
        "gpt-4-turbo",
        "gpt-4.1-nano",
        "gpt-4o-2024-05-13",
        "o1",
        "o3-mini",
        "o4-mini",
    ),
    date(2026, 12, 11): ("gpt-5", "gpt-5-mini", "gpt-5-nano", "o3"),
    date(2027, 1, 14): ("gpt-4.1", "gpt-4.1-mini", "gpt-4o", "gpt-4o-mini"),
    date(2027, 4, 1): ("gpt-5.1", "gpt-5.4-nano"),
}
_DAYS = {model: day for day, models in _OPENAI.items() for model in models}
_SNAPSHOT = re.compile(r"-(20\d\d-\d\d-\d\d|\d{4})$")


def shutdown_date(provider: str, model: str) -> date | None:
    """The day from which `model` is gone at a provider (a profile's name); a tuned model goes with its base.

    None where no day is announced, or known here.
    """
    if provider != "openai":
        return None
    base = base_model(model) or model
    return _DAYS.get(base) or _DAYS.get(_SNAPSHOT.sub("", base))
