"""`asyncgen view`: the local page over runs.

Owns its options, the opening of a browser, and which provider answers for a model in the playground. Does not know how
the page works, and imports it only when it runs.
"""

from __future__ import annotations

import asyncio
import os
import webbrowser
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asyncgen.cli.loop import run as run_loop
from asyncgen.cli.options import debug_option, quiet_option, run_argument
from asyncgen.cli.output import result, say
from asyncgen.cli.signals import interruptible
from asyncgen.errors import UsageError
from asyncgen.run_directory import RunDirectory, find_run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncgen.cli.resolve import Where
    from asyncgen.endpoint import Endpoint
    from asyncgen.providers import Choice
    from asyncgen.view.access import Access
    from asyncgen.view.runs import Runs

RUNS = Path("runs")


@click.command("view")
@run_argument
@click.option("--no-browser", is_flag=True, help="Print the link, and open nothing.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="[default: the first free one from 7575 on]")
@click.option(
    "--as-seen-at", metavar="URL",
    help="Where your browser finds the page, if a tunnel or a forwarded port stands between.",
)  # fmt: skip
@click.option(
    "--export", "export_to", type=click.Path(path_type=Path), metavar="DIR",
    help="Write the page as files that open without a server, and end.",
)  # fmt: skip
@quiet_option
@debug_option
def view(run: Path | None, no_browser: bool, port: int | None, as_seen_at: str | None, export_to: Path | None) -> int:
    """Look at RUN in a browser: progress, answers, training, comparison, playground.

    The page is live while the run goes on, and only this user's browser can open it: the link works once.
    """
    from asyncgen.view.access import Access, SeenAt  # noqa: PLC0415 - imports aiohttp
    from asyncgen.view.runs import Runs  # noqa: PLC0415 - with it

    directory = _named(run)
    if export_to is not None:
        from asyncgen.view.export import export_run  # noqa: PLC0415 - only here

        page = export_run(directory or find_run(None, root=RUNS), export_to)
        say("open it by a double click; nothing of it is sent anywhere")
        result(str(page))
        return 0
    access = Access(SeenAt.of(as_seen_at) if as_seen_at else None)
    return run_loop(_serve(Runs(RUNS, directory), access, port, opens=not no_browser))


def _named(run: Path | None) -> RunDirectory | None:
    """The run that is meant; None where there is none yet, and none was named."""
    try:
        return find_run(run, root=RUNS)
    except UsageError:
        if run is not None:
            raise
        return None


async def _serve(runs: Runs, access: Access, port: int | None, *, opens: bool) -> int:
    from asyncgen.view.server import serve_view  # noqa: PLC0415 - imports aiohttp

    def started(link: str) -> None:
        say("the page is open to the browser that opens this link, which works once; Ctrl-C ends it")
        result(link)
        if opens:
            asyncio.get_running_loop().run_in_executor(None, webbrowser.open, link)

    async with interruptible(lambda: None) as interrupt:
        await serve_view(runs, access, _open_endpoint, port=port, stop=interrupt.stop, started=started, say=say)
        return interrupt.exit_code or 0


@asynccontextmanager
async def _open_endpoint(directory: RunDirectory, model: str) -> AsyncIterator[Endpoint]:
    """Who answers for a model: who tuned it, who answered the run, or whoever the environment names."""
    from asyncgen.cli.resolve import open_endpoint  # noqa: PLC0415 - not needed to look at a run

    choice, where = _place_of(directory, model)
    async with open_endpoint(choice, where, model) as endpoint:
        yield endpoint


def _place_of(directory: RunDirectory, model: str) -> tuple[Choice, Where]:
    from asyncgen.cli.resolve import Where, choose_answering  # noqa: PLC0415 - as above
    from asyncgen.providers import PROFILES, Choice  # noqa: PLC0415 - as above

    state = directory.read_state()
    for job in reversed(state.finetuning):
        if model in (job.tuned_model, job.model) and job.provider in PROFILES:
            return Choice(PROFILES[job.provider], "the run's job is there"), Where(base_url=job.base_url or None)
    if model == state.job.model and state.job.generation_provider in PROFILES:
        return Choice(PROFILES[state.job.generation_provider], "it answered the run"), Where()
    where = Where()
    return choose_answering(where, os.environ), where
