"""Open the tuner of an endpoint: the implementation that its profile asks for.

Also identifies a server, so that two can be told apart. Importing this module imports the SDK.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from asyncgen.finetune.api import FileApi, JobApi, ModelApi, Tuner, WeightApi
from asyncgen.finetune.fetch import Downloader
from asyncgen.finetune.fireworks import (
    ACCOUNT_VARIABLE,
    FireworksAccount,
    FireworksFiles,
    FireworksJobs,
    FireworksModels,
    FireworksWeights,
)
from asyncgen.finetune.json_calls import JsonCalls
from asyncgen.finetune.openai_shape import OpenaiFiles, OpenaiJobs, OpenaiModels, OpenaiWeights
from asyncgen.finetune.together import TogetherFiles, TogetherJobs, TogetherWeights
from asyncgen.providers.openai_client import Pacing, open_client
from asyncgen.providers.profiles import LOCAL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncgen.providers.endpoint import Endpoint, Secret


@asynccontextmanager
async def open_tuner(
    endpoint: Endpoint, *, wandb_key: Secret | None = None, pacing: Pacing | None = None
) -> AsyncIterator[Tuner]:
    """Open the files, jobs and models of an endpoint; the connection is closed at the end of the block.

    Args:
        endpoint: of a provider that tunes.
        wandb_key: API key of Weights & Biases, which some providers need for jobs that report there; None for none.
        pacing: retry settings; None for the defaults.

    Yields:
        The open provider.

    Raises:
        UsageError: a variable names a proxy or certificates that cannot be used.
    """
    finetuning = endpoint.profile.finetuning
    assert finetuning is not None, "the choice of a provider sees to it"
    async with open_calls(endpoint, pacing=pacing) as calls:
        files: FileApi = OpenaiFiles(calls)
        jobs: JobApi = OpenaiJobs(calls, finetuning)
        models: ModelApi = OpenaiModels(calls)
        weights: WeightApi = OpenaiWeights(calls, files, jobs)
        if finetuning.api == "together":
            files, jobs = TogetherFiles(calls), TogetherJobs(calls, finetuning, wandb_key)
            weights = TogetherWeights()
        if finetuning.api == "fireworks":
            account = FireworksAccount(calls, endpoint.base_url, os.environ.get(ACCOUNT_VARIABLE) or None)
            files, jobs = FireworksFiles(account), FireworksJobs(account, finetuning, wandb_key)
            models, weights = FireworksModels(account), FireworksWeights(account)
        fetcher = Downloader(endpoint, calls.pacing)
        yield Tuner(endpoint.profile, place_of(endpoint), files, jobs, models, weights, fetcher)


@asynccontextmanager
async def open_calls(endpoint: Endpoint, *, pacing: Pacing | None = None) -> AsyncIterator[JsonCalls]:
    """Open calls of an endpoint's API; the connection is closed at the end of the block.

    Args:
        endpoint: address, key and headers.
        pacing: retry settings; None for the defaults.

    Yields:
        The calls.

    Raises:
        UsageError: a variable names a proxy or certificates that cannot be used.
    """
    async with open_client(endpoint) as client:
        yield JsonCalls(client, pacing or Pacing())


def place_of(endpoint: Endpoint) -> str:
    """The address as `run.json` keeps it: "" for this user's own server, whose port changes."""
    return "" if endpoint.profile.name == LOCAL else endpoint.base_url
