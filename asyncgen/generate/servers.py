"""Which server answered the rows of a run, and whether those answers may be kept when another one is asked now.

A request's key does not contain the server: two servers may have models of the same name. So `run.json` keeps which
ones were asked. Answers of another server are reused only with consent, those of a simulation never.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
import msgspec

from asyncgen.errors import AsyncgenError
from asyncgen.generate.http.client import open_session
from asyncgen.json_text import NotJsonError, decode_loosely
from asyncgen.providers.choose import addressed_endpoint, named_address
from asyncgen.providers.endpoint import Endpoint
from asyncgen.providers.profiles import LOCAL
from asyncgen.run.simulated import count_simulated
from asyncgen.run.state import ServerState
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncgen.generate.observer import Observer
    from asyncgen.providers.choose import EndpointFlags
    from asyncgen.providers.profiles import ProviderChoice
    from asyncgen.run.directory import RunWriter
    from asyncgen.run.state import RunState


_SIMULATION_OWNER = "asyncgen-simulation"  # owner of the models of `asyncgen serve --engine simulated`
_ATTEMPTS = 5
_ANSWER_S = 10.0
_MOST_BYTES = 4 * 1024 * 1024
_BUSY, _FAILS = 429, 500


def server_of(provider: str, base_url: str | None) -> ServerState:
    """The server that a provider has at an address; None for the local one that is started for the command."""
    return ServerState(provider=provider, host=urlsplit(base_url or "").netloc)


async def is_simulation(choice: ProviderChoice, where: EndpointFlags, model: str) -> bool:
    """Whether the server that is to be asked makes its answers up, by its own word in its list of models.

    Its address is no sign: a simulation started again has another port, and another server may have its old one.

    Raises:
        AsyncgenError: it does not answer, and so cannot tell.
        UsageError, AuthError: it cannot be asked.
    """
    if choice.profile.name == LOCAL and named_address(choice.profile, where) is None:
        from asyncgen.providers.local_server import default_data_folder, server_info  # noqa: PLC0415 - for it alone

        info = server_info(default_data_folder())
        if info is None:
            return False  # the server that is started for the command has a model
        endpoint = Endpoint(choice.profile, info.base_url, None, model, choice.why)
        return _SIMULATION_OWNER in (await _owners(endpoint) or ())
    endpoint = addressed_endpoint(choice, where, model)
    owners = await _owners(endpoint)
    if owners is None:
        raise AsyncgenError(
            f"{endpoint.base_url} does not answer",
            cause="the run has simulated answers; whether they are kept depends on the current server",
            help_text="start the server, then run the command again; or choose another folder for this run with --out",
            code="unreachable",
        )
    return _SIMULATION_OWNER in owners


async def _owners(endpoint: Endpoint) -> set[str] | None:
    """Who a server's models belong to, as it says; None where it does not answer."""
    async with open_session(endpoint, concurrency=1) as (session, _):
        for _attempt in range(_ATTEMPTS):  # a simulation may be set to fail at random
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with session.get(
                    f"{endpoint.base_url}/models",
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=_ANSWER_S),
                ) as response:
                    content = await response.content.read(_MOST_BYTES)
                    if response.status < _FAILS and response.status != _BUSY:
                        return set(_owners_in(content))
    return None


def _owners_in(content: bytes) -> Iterator[str]:
    try:
        listed = decode_loosely(content)
    except NotJsonError:
        return
    models = listed.get("data") if isinstance(listed, dict) else None
    for model in models if isinstance(models, list) else ():
        if isinstance(model, dict) and isinstance(model.get("owned_by"), str):
            yield model["owned_by"]


def consent_to_server(run: RunWriter, server: ServerState, observer: Observer, *, simulated: bool) -> None:
    """See that what the run holds may count as this server's, and note that it is asked.

    Args:
        run: open for writing, its journal not open yet.
        server: that is to be asked.
        observer: is told and asked.
        simulated: the server makes its answers up, and may go on with what another simulation made up.

    Raises:
        UsageError: others answered, and there is no consent.
        BadLineError, DiskError: the records cannot be read or written.
    """
    if not simulated and count_simulated(run.directory.records):
        _set_simulated_aside(run, observer)
    if _noted(run.state, server) is None:
        others = [
            f"{each.provider} at {each.host or 'this machine'}" for each in run.state.servers if not each.simulated
        ]
        if others and run.state.spend.records:
            what = (
                f"rows of {run.directory.path} were answered by {', '.join(others)}, but this run uses another server"
            )
            observer.agree("Continue, and keep those answers?", why=what, notice=what)
        run.update(lambda state: msgspec.structs.replace(state, servers=[*state.servers, server]))


def _set_simulated_aside(run: RunWriter, observer: Observer) -> None:
    from asyncgen.generate.journal.repair import set_simulated_aside  # noqa: PLC0415 - few runs need it

    moved = set_simulated_aside(run)
    kept = f"the simulated answers are kept in {run.directory.replaced}"
    observer.say(
        f"{counted(moved, 'row has a simulated answer', 'rows have simulated answers')} and will be sent again; {kept}"
    )


def note_simulation(run: RunWriter, server: ServerState, *, simulated: bool) -> None:
    """Note of a server that answered just now whether it makes its answers up.

    Raises:
        DiskError: the run cannot be written.
    """

    def change(state: RunState) -> RunState:
        servers = [
            msgspec.structs.replace(each, simulated=simulated) if _is_same(each, server) else each
            for each in state.servers
        ]
        return msgspec.structs.replace(state, servers=servers)

    if any(_is_same(each, server) and each.simulated != simulated for each in run.state.servers):
        run.update(change)


def _noted(state: RunState, server: ServerState) -> ServerState | None:
    return next((each for each in state.servers if _is_same(each, server)), None)


def _is_same(one: ServerState, other: ServerState) -> bool:
    return (one.provider, one.host) == (other.provider, other.host)
