"""Who answered the rows of a run, and whether that is taken for whom is asked now.

A request's key does not tell who answers it: two servers have models of one name. So the run keeps who was asked.
Another server's answers are taken for this one's only with consent; those that a simulation made up never are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from asyncgen.generate.journal.repair import set_simulated_aside
from asyncgen.generate.journal.settled import count_simulated
from asyncgen.run.state import ServerState

if TYPE_CHECKING:
    from asyncgen.generate.observer import Observer
    from asyncgen.run.directory import RunWriter
    from asyncgen.run.state import RunState


def server_of(provider: str, base_url: str | None) -> ServerState:
    """The server that a provider has at an address; None for the local one that is started for the command."""
    return ServerState(provider=provider, host=urlsplit(base_url or "").netloc)


def consent_to_server(run: RunWriter, server: ServerState, observer: Observer) -> None:
    """See that what the run holds may count as this server's, and note that it is asked.

    Args:
        run: open for writing, its journal not open yet.
        server: that is to be asked.
        observer: is told and asked.

    Raises:
        UsageError: others answered, and there is no consent.
        BadLineError, DiskError: the records cannot be read or written.
    """
    known = _noted(run.state, server)
    if known is not None and known.simulated:
        return  # more of the same
    if moved := set_simulated_aside(run) if count_simulated(run.directory.records) else 0:
        kept = f"what it made up is kept in {run.directory.replaced}"
        observer.say(f"{moved:,} rows were answered by a simulation and are asked for again; {kept}")
    if known is None:
        others = [
            f"{each.provider} at {each.host or 'this machine'}" for each in run.state.servers if not each.simulated
        ]
        if others and run.state.spend.records:
            what = f"rows of {run.directory.path} were answered by {', '.join(others)}, and another server is asked now"
            observer.say(what)
            observer.agree("Go on, and let those answers stand?", why=what)
        run.update(lambda state: msgspec.structs.replace(state, servers=[*state.servers, server]))


def note_simulation(run: RunWriter, server: ServerState) -> None:
    """Note of a server that was asked just now whether it makes its answers up; raises `DiskError`."""
    if not count_simulated(run.directory.records):
        return  # answers that an earlier simulation made up were set aside

    def change(state: RunState) -> RunState:
        marked = [_marked(each) if _is_same(each, server) else each for each in state.servers]
        return msgspec.structs.replace(state, servers=marked)

    run.update(change)


def _noted(state: RunState, server: ServerState) -> ServerState | None:
    return next((each for each in state.servers if _is_same(each, server)), None)


def _is_same(one: ServerState, other: ServerState) -> bool:
    return (one.provider, one.host) == (other.provider, other.host)


def _marked(server: ServerState) -> ServerState:
    return msgspec.structs.replace(server, simulated=True)
