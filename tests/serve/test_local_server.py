"""The user's local server as commands find it, or start it."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from asyncgen.errors import AsyncgenError
from asyncgen.providers.endpoint import Secret
from asyncgen.providers.local_server import default_data_folder, local_server
from asyncgen.serve.server import ServeSettings
from asyncgen.serve.simulation.engine import SimulationSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


async def served(said: list[str]) -> str:
    """The base model of the local server, which is started where it does not run."""
    async with local_server(said.append) as base_url, aiohttp.ClientSession() as session:
        async with session.get(f"{base_url}/models") as response:
            models: dict[str, Any] = await response.json()
        name: str = models["data"][0]["id"]
        return name


# The server that a command starts is to outlive it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:subprocess .* is still running:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture
def other_model(tiny_model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "Other.F32.gguf"
    shutil.copy(tiny_model, path)
    return path


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def test_idle_server_of_another_model_is_not_taken_for_the_wanted_one(
    tiny_model: Path, other_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, name in ((tiny_model, "tiny-llama"), (other_model, "other"), (tiny_model, "tiny-llama")):
        monkeypatch.setenv("ASYNCGEN_MODEL_PATH", str(path))
        assert asyncio.run(served([])) == name


def test_modules_in_the_current_folder_are_imported_by_no_process_of_the_server(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "somebody's folder"
    folder.mkdir()
    for name in ("random", "tokenize", "orjson", "aiohttp", "xllamacpp"):
        (folder / f"{name}.py").write_text("raise SystemExit('imported from the current folder')\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ASYNCGEN_MODEL_PATH", str(tiny_model))
    assert asyncio.run(served([])) == "tiny-llama"


def test_server_of_another_model_that_is_in_use_is_named_with_the_way_out(
    tiny_model: Path, other_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def both() -> None:
        monkeypatch.setenv("ASYNCGEN_MODEL_PATH", str(tiny_model))
        async with local_server(lambda _: None):
            monkeypatch.setenv("ASYNCGEN_MODEL_PATH", str(other_model))
            with pytest.raises(AsyncgenError) as caught:
                await served([])
            monkeypatch.delenv("ASYNCGEN_MODEL_PATH")
            with pytest.raises(AsyncgenError) as small:
                await served([])
        assert str(tiny_model) in caught.value.what
        assert f"ASYNCGEN_MODEL_PATH={tiny_model}" in str(caught.value.help_text)
        assert "is not set" in str(small.value.cause)

    asyncio.run(both())


def test_server_that_wants_a_key_is_told_at_once(start_server: Callable[[ServeSettings], Any]) -> None:
    settings = ServeSettings(
        data_dir=default_data_folder(), simulation=SimulationSettings(), key=Secret("sk-mine", "a test")
    )
    start_server(settings)
    with pytest.raises(AsyncgenError, match="requires a key") as caught:
        asyncio.run(served([]))
    assert "--api-key-file" in str(caught.value.help_text)
