"""Takes the pictures of the page that the README shows: `python tests/view/pictures.py docs/images`.

They are of the run that `demo.py` makes, served by `asyncgen view` as anybody starts it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from demo import make_demo, write_live

_CHROMIUM = "/usr/bin/chromium"
_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--force-device-scale-factor=1"]


def take_pictures(folder: Path) -> list[Path]:
    """Write the pictures; returns where they are."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - one Playwright at a time

    folder.mkdir(parents=True, exist_ok=True)
    made = [folder / "view-run.png", folder / "view-records.png"]
    with tempfile.TemporaryDirectory() as work:
        directory = make_demo(Path(work), now=time.time())
        command = [sys.executable, "-m", "asyncgen", "view", str(directory.path), "--no-browser", "--port", "0", "-q"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
            assert server.stdout is not None
            browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=_ARGUMENTS)
            page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
            page.goto(server.stdout.readline().strip())
            write_live(directory, time.time())
            page.get_by_text("24 in flight").wait_for()
            page.wait_for_selector(".heat .cell")
            page.wait_for_selector(".plot canvas")
            page.screenshot(path=made[0])
            page.evaluate("location.hash = '#/direct-marketing/records?axis.city=Paris'")
            page.wait_for_selector("[role=listbox] [role=option]")
            page.locator("[role=listbox] [role=option]").nth(2).click()
            page.wait_for_selector(".text.answer")
            page.screenshot(path=made[1])
            browser.close()
            server.terminate()
    return made


if __name__ == "__main__":
    for path in take_pictures(Path(sys.argv[1])):
        print(path)  # noqa: T201 - a command
