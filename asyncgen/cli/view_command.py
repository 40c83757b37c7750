"""`asyncgen view`: the local page over runs.

Parses the options, opens a browser, and chooses the provider of each model in the playground. The page is left to
`view`, which is imported only when it runs.
"""

from __future__ import annotations

import asyncio
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asyncgen.cli.arguments import RUNS, run_directory
from asyncgen.cli.loop import interruptible
from asyncgen.cli.loop import run as run_loop
from asyncgen.cli.options import (
    api_key_file_option,
    base_url_option,
    debug_option,
    provider_option,
    quiet_option,
    run_argument,
)
from asyncgen.cli.output import result, say
from asyncgen.errors import UsageError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from asyncgen.providers.choose import EndpointFlags
    from asyncgen.providers.endpoint import Endpoint
    from asyncgen.providers.profiles import ProviderChoice
    from asyncgen.run.directory import RunDirectory
    from asyncgen.view.access import PageAccess
    from asyncgen.view.playground import OpenEndpoint
    from asyncgen.view.runs import Runs


@click.command("view")
@run_argument
@click.option("--no-browser", is_flag=True, help="Print the link, but open no browser.")
@click.option(
    "--port", type=click.IntRange(0, 65535), metavar="N", help="The port.  [default: the first free one from 7575 on]"
)
@click.option(
    "--as-seen-at", metavar="URL",
    help="The URL of the page in your browser, if it goes through a tunnel or a forwarded port.",
)  # fmt: skip
@click.option(
    "--export", "export_to", type=click.Path(path_type=Path), metavar="DIR",
    help="Write the page as files that open without a server, and exit.",
)  # fmt: skip
@provider_option
@base_url_option
@api_key_file_option
@quiet_option
@debug_option
def view(
    run: Path | None,
    no_browser: bool,
    port: int | None,
    as_seen_at: str | None,
    export_to: Path | None,
    **where: Any,
) -> int:
    """Show RUN in the browser: progress, answers, training, comparison, playground.

    The page updates during a run. Only your browser can open it: the link works once. The playground uses the provider
    that generated or fine-tuned the run, unless --provider or --base-url names another one.
    """
    from asyncgen.providers.choose import EndpointFlags  # noqa: PLC0415 - the command line comes up without it
    from asyncgen.view.access import BrowserAddress, PageAccess  # noqa: PLC0415 - imports aiohttp
    from asyncgen.view.runs import Runs  # noqa: PLC0415 - with it

    if export_to is not None:
        from asyncgen.view.export import export_run  # noqa: PLC0415 - only here

        page = export_run(run_directory(run), export_to)
        say("open it in a browser; it sends nothing anywhere")
        result(str(page))
        return 0
    directory = _named(run)
    access = PageAccess(BrowserAddress.of(as_seen_at) if as_seen_at else None)
    return run_loop(_serve(Runs(RUNS, directory), access, _opening(EndpointFlags(**where)), port, opens=not no_browser))


def _named(run: Path | None) -> RunDirectory | None:
    """The named run; None if there is none yet and none was named."""
    try:
        return run_directory(run)
    except UsageError:
        if run is not None:
            raise
        return None


async def _serve(runs: Runs, access: PageAccess, open_endpoint: OpenEndpoint, port: int | None, *, opens: bool) -> int:
    from asyncgen.view.server import serve_view  # noqa: PLC0415 - imports aiohttp

    def started(link: str) -> None:
        say("this link opens the page once, in one browser; Ctrl-C stops the server")
        result(link)
        if opens:
            asyncio.get_running_loop().run_in_executor(None, webbrowser.open, link)

    async with interruptible(lambda: None) as interrupt:
        await serve_view(runs, access, open_endpoint, port=port, stop=interrupt.stop, started=started, say=say)
        return interrupt.exit_code or 0


def _opening(where: EndpointFlags) -> OpenEndpoint:
    """The endpoint for a model: the server of the flags, else the provider that tuned it or answered the run."""
    from asyncgen.providers.choose import open_endpoint  # noqa: PLC0415 - not needed to look at a run

    def open_for(directory: RunDirectory, model: str) -> AbstractAsyncContextManager[Endpoint]:
        choice, place = _provider_of(directory, model, where)
        return open_endpoint(choice, place, model, say)

    return open_for


def _provider_of(directory: RunDirectory, model: str, where: EndpointFlags) -> tuple[ProviderChoice, EndpointFlags]:
    from asyncgen.providers.choose import EndpointFlags, choose_generation, named_profile  # noqa: PLC0415 - as above
    from asyncgen.providers.profiles import ProviderChoice  # noqa: PLC0415 - as above

    if where.provider or where.addresses:
        return choose_generation(where), where
    state = directory.read_state()
    for job in reversed(state.finetuning):
        if model in (job.tuned_model, job.model):
            profile = named_profile(job.provider)
            return ProviderChoice(profile, "the run's job is at this provider"), EndpointFlags(
                base_url=job.base_url or None, api_key_file=where.api_key_file
            )
    if model == state.job.model and state.job.generation_provider:
        return ProviderChoice(named_profile(state.job.generation_provider), "it generated the run"), where
    return choose_generation(where), where
