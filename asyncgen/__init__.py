"""Generate fine-tuning data with a language model, fine-tune a model on it, and use it, from the shell and from Python.

import asyncgen

job = asyncgen.load_job("campaign.toml")
run = asyncgen.generate(job, max_cost=5.0)
for record in run.records():
print(record.variables, record.completion)
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from asyncgen.api.evaluation import evaluate
    from asyncgen.api.generation import GenerateArguments, agenerate, generate, preview, stream
    from asyncgen.api.observer import ProgressSnapshot
    from asyncgen.api.runs import LoadedJob, Run, load_job, open_run, plan
    from asyncgen.api.tuning import complete, finetune, prepare
    from asyncgen.errors import (
        AsyncgenError,
        AuthError,
        DiskError,
        IncompleteError,
        JobFileError,
        QuotaError,
        RunInUseError,
        UsageError,
    )
    from asyncgen.run.records import Failure, Record

# Where each public name is: imported when it is used, since aiohttp and the SDK take a second.
_HOMES = {
    "asyncgen.api.evaluation": ("evaluate",),
    "asyncgen.api.generation": ("GenerateArguments", "agenerate", "generate", "preview", "stream"),
    "asyncgen.api.observer": ("ProgressSnapshot",),
    "asyncgen.api.runs": ("LoadedJob", "Run", "load_job", "open_run", "plan"),
    "asyncgen.api.tuning": ("complete", "finetune", "prepare"),
    "asyncgen.errors": (
        "AsyncgenError", "AuthError", "DiskError", "IncompleteError", "JobFileError", "QuotaError", "RunInUseError",
        "UsageError",
    ),
    "asyncgen.run.records": ("Failure", "Record"),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AsyncgenError",
    "AuthError",
    "DiskError",
    "Failure",
    "GenerateArguments",
    "IncompleteError",
    "JobFileError",
    "LoadedJob",
    "ProgressSnapshot",
    "QuotaError",
    "Record",
    "Run",
    "RunInUseError",
    "UsageError",
    "__version__",
    "agenerate",
    "complete",
    "evaluate",
    "finetune",
    "generate",
    "load_job",
    "open_run",
    "plan",
    "prepare",
    "preview",
    "stream",
]


class _Package(ModuleType):
    """The type of this module: public names are functions, not the packages of the same name.

    Importing `asyncgen.generate.session` would put the package `generate` into the function's place.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'asyncgen' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)


sys.modules[__name__].__class__ = _Package
