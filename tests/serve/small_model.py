"""The real small model for the tests that are about it: as a user has it, fetched once into the cache folder."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from asyncgen.errors import AsyncgenError
from asyncgen.serve.llama.model_files import find_model

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def small_model_file(environ: Mapping[str, str], folder: Path | None = None) -> Path:
    """Its GGUF file. Without a network the test is skipped; where `CI` is set it fails: nobody reads of skips there."""
    try:
        return asyncio.run(find_model(None, print, folder=folder))
    except AsyncgenError as error:
        if error.code != "model_not_fetched" or environ.get("CI"):
            raise
        pytest.skip(f"{error.what}: {error.cause}")
