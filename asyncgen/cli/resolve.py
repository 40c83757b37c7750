"""Who answers and who tunes: from flags, the environment and the job file to an open endpoint.

Owns the first line on stderr that says what was chosen and why. Starts the local server when the provider is `local`
and no address was given. Sends nothing.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from asyncgen.cli.output import say
from asyncgen.errors import UsageError
from asyncgen.job.load import read_job_file
from asyncgen.job.of_run import OpenedJob, open_job
from asyncgen.providers.choose import Where, addressed_endpoint, choose_generation, choose_tuning, named_address
from asyncgen.providers.endpoint import Endpoint
from asyncgen.providers.profiles import LOCAL, Choice, Profile


def open_named_job(
    path: Path | None, where: Where, *, finetune_provider: str | None = None
) -> tuple[OpenedJob, Choice, Choice]:
    """Read a job and open its grid for the providers chosen; returns it with who answers and who tunes."""
    file = read_job_file(path)
    generation = choose_generation(where, file.generation_provider)
    tuning = choose_tuning(generation, finetune_provider, file.tuning_provider)
    laid_over = file.job(generation.profile.name, tuning.profile.name)
    model = model_name(generation.profile, where.model or laid_over.generate.model)
    opened = open_job(file, generation=generation.profile.name, tuning=tuning.profile.name, model=model)
    return opened, generation, tuning


def own_local_model(profile: Profile, environment: Mapping[str, str]) -> str | None:
    """The name under which the local server serves the user's own model; None where it serves the small one."""
    path = environment.get("ASYNCGEN_MODEL_PATH")
    if profile.name != LOCAL or not path:
        return None
    from asyncgen.serve.llama.model_files import model_name as name_of_file  # noqa: PLC0415 - the server's rule

    return name_of_file(Path(path))


def model_name(profile: Profile, named: str | None) -> str:
    """The model to ask: the one named, else the provider's default."""
    model = named or own_local_model(profile, os.environ) or profile.default_model
    if model is None:
        raise UsageError(
            f"{profile.name} has no model of its own choice",
            help_text="name one with --model, or as `model` under [generate] in the job file",
        )
    return model


@asynccontextmanager
async def open_endpoint(choice: Choice, where: Where, model: str) -> AsyncIterator[Endpoint]:
    """The endpoint of a stage, and its first line on stderr; the local server runs while the block does.

    Raises:
        UsageError: there is no address, or it is none that a key may be sent to.
        AuthError: a key is needed and there is none.
    """
    if choice.profile.name == LOCAL and named_address(choice.profile, where) is None:
        from asyncgen.cli.local_server import local_server  # noqa: PLC0415 - needs aiohttp

        async with local_server() as base_url:
            yield _announced(Endpoint(choice.profile, base_url, None, model, choice.why))
    else:
        yield _announced(addressed_endpoint(choice, where, model))


def _announced(endpoint: Endpoint) -> Endpoint:
    chosen = ", ".join(name for name in (endpoint.profile.name, endpoint.model) if name)
    say(f"{chosen} at {endpoint.base_url} ({endpoint.why})")
    for remark in endpoint.remarks:
        say(remark)
    return endpoint
