"""The page out of the built wheel: what is installed is what was tested."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import asyncgen

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(asyncgen.__file__).parents[1]
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package installed from its wheel, where nothing of the sources is found; what it depends on is there."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*install, str(folder / "site"), str(wheel)], check=True, capture_output=True)
    return folder / "site"


def test_a_wheel_holds_the_whole_page_and_its_licences(installed: Path) -> None:
    built = {path.name for path in (installed / "asyncgen" / "view" / "static").iterdir()}
    assert built == {path.name for path in (ROOT / "asyncgen" / "view" / "static").iterdir()}


def test_the_installed_page_opens(
    installed: Path, make_run: Callable[..., Any], open_page: Callable[..., Page]
) -> None:
    run = make_run(rows=4)
    # Isolated from the sources: the folder of the wheel comes first, and the environment names no other.
    start = f"import sys; sys.path.insert(0, {str(installed)!r}); from asyncgen.cli.main import main; main()"
    arguments = ["view", str(run.path), "--no-browser", "--port", "0", "-q"]
    with subprocess.Popen(
        [sys.executable, "-I", "-c", start, *arguments], stdout=subprocess.PIPE, text=True, cwd=installed
    ) as server:
        assert server.stdout is not None
        try:
            page = open_page(server.stdout.readline().strip())
            page.keyboard.press("2")
            page.get_by_text("Advert number 3,").wait_for()
            where = f"import sys; sys.path.insert(0, {str(installed)!r}); import asyncgen; print(asyncgen.__file__)"
            found = subprocess.run([sys.executable, "-I", "-c", where], capture_output=True, text=True, check=True)
            assert found.stdout.startswith(str(installed))
        finally:
            server.terminate()
