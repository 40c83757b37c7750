"""`generate --ray`: the nodes of a Ray cluster send the requests of one run.

Ray places the workers, starts them anew when they die, and carries the messages. Which rows a worker has, what is
written, and what is asked for again is decided by `dispatch` alone: Ray's own retries would pay twice unseen.

The key travels nowhere: each worker reads it on its node, from the provider's variable in the environment in which Ray
was started there, or from the file of --api-key-file.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from asyncgen import __version__
from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.generate.distributed.dispatch import Dispatcher
from asyncgen.generate.distributed.leases import WorkerLostError, WorkerPort, most_holders
from asyncgen.generate.distributed.messages import WorkSpec
from asyncgen.generate.distributed.row_worker import RowWorker
from asyncgen.generate.engine import EngineResult, Session, result_of, watched
from asyncgen.generate.pool.pool import DEFAULT_CONCURRENCY
from asyncgen.providers.endpoint import is_loopback
from asyncgen.providers.profiles import ProviderChoice
from asyncgen.terminal import counted

LOCAL, AUTO = "local", "auto"
_LOCAL_WORKERS = 2
_OBJECT_STORE_BYTES = 100_000_000  # of the local cluster: messages are small, and most never get there
_PATIENCE_S = 10.0
_BYTES_PER_TOKEN = 4
_ANSWERS_WITHIN_S = 5.0


class RayEngine:
    """The engine of a run on Ray.

    Args:
        address: of the cluster: HOST:PORT, `auto` for the one that this machine is a node of, or `local` to start one
            on this machine for the time of the run.

    Raises:
        UsageError: it is an address for Ray Client, which cannot carry a run.
    """

    def __init__(self, address: str) -> None:
        if address == AUTO:  # as Ray reads it; `ray job submit` sets the variable
            address = os.environ.get("RAY_ADDRESS", "").strip() or AUTO
        if address.startswith("ray://"):
            raise UsageError(
                f"--ray {address} is an address of Ray Client",
                cause="the run directory must be on a node of the cluster, where one process writes it",
                help_text="on a node, use --ray auto; elsewhere, put `ray job submit --` before the command",
            )
        self._address = address

    async def run(self, session: Session) -> EngineResult:
        """Settle the session's open rows; raises `AsyncgenError` if the cluster cannot be used."""
        # In this thread, and before our own handlers: Ray sets one for SIGTERM.
        with _cluster(self._address) as cluster:
            _refuse_unreachable(session, cluster)
            workers = _workers(session, cluster)
            machines = counted(len(cluster.hosts) or 1, "machine")
            session.observer.say(f"Ray at {cluster.address}: {counted(len(workers), 'worker')} on {machines}")
            concurrency = sum(spec.concurrency for _, spec in workers)
            async with watched(session, concurrency) as interrupt:
                outcome = await Dispatcher(session, workers).run(interrupt.stop, interrupt.abandon)
        return result_of(session, outcome, interrupt)


@dataclass(frozen=True, slots=True)
class _Cluster:
    """A Ray cluster.

    Attributes:
        address: for people.
        is_local: it was started for this run.
        nodes: number of nodes with a CPU for workers.
        hosts: addresses of their machines.
        here: address of this machine.
    """

    address: str
    is_local: bool
    nodes: int
    hosts: frozenset[str]
    here: str


@contextmanager
def _cluster(address: str) -> Iterator[_Cluster]:
    """Join a cluster, or start a local one, for the duration of the block.

    Ray prints the logs of processes that died to stdout, where only results belong.

    Raises:
        AsyncgenError: there is no cluster at the address, or it cannot be joined.
    """
    before = signal.getsignal(signal.SIGTERM)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        try:
            with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of Ray's, about its own future
                _join(address)
            signal.signal(signal.SIGTERM, before)
            nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
            hosts = frozenset(node["NodeManagerAddress"] for node in nodes)
            shown = "this machine" if address == LOCAL else ray.get_runtime_context().gcs_address
            yield _Cluster(shown, address == LOCAL, len(nodes), hosts, ray.util.get_node_ip_address())
        finally:
            ray.shutdown()


def _join(address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if ":" in address:
            _knock(address)
        if address == LOCAL:
            os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
            ray.init(
                address=LOCAL,
                num_cpus=_LOCAL_WORKERS,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                **quiet,
            )
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        what = "Ray cannot be started here" if address == LOCAL else f"no Ray cluster can be joined at {address}"
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise AsyncgenError(
            what,
            cause=str(error).strip().split("\n")[0],
            help_text="start one with `ray start --head`; the driver and all nodes need the same Ray "
            f"({ray.__version__}) and Python ({version})",
            code="no_cluster",
        ) from error


def _knock(address: str) -> None:
    """See that something listens at HOST:PORT: Ray itself would go on trying for minutes; raises `OSError`."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise ValueError(f"{address} is not HOST:PORT")
    with socket.create_connection((host.strip("[]"), int(port)), _ANSWERS_WITHIN_S):
        pass


def _refuse_unreachable(session: Session, cluster: _Cluster) -> None:
    """See that the nodes can reach the server.

    Raises:
        UsageError: it has an address of this machine alone, and other machines would ask it.
    """
    endpoint = session.endpoint
    if cluster.hosts <= {cluster.here}:
        return
    for address in filter(is_loopback, (endpoint.base_url, *endpoint.others)):
        raise UsageError(
            f"{address} is an address of this machine, which other nodes of the cluster cannot reach",
            help_text="use an address that every node can reach with --base-url",
        )


def _workers(session: Session, cluster: _Cluster) -> list[tuple[WorkerPort, WorkSpec]]:
    """A worker for each node, but no more than can use the rate.

    Each has its part of the requests that may be in flight, where the user bounded them.
    """
    endpoint, limits, options, grid = session.endpoint, session.limits, session.options, session.opened.grid
    most = limits.concurrency
    count = min(_LOCAL_WORKERS if cluster.is_local else max(cluster.nodes, 1), most or sys.maxsize)
    of_one = grid.longest_body() // _BYTES_PER_TOKEN + (grid.max_output_tokens or 0)
    count = most_holders(count, limits.requests_per_minute, limits.tokens_per_minute, of_one)
    key_file = options.where.api_key_file
    actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=0, scheduling_strategy="SPREAD")(RowWorker)
    workers: list[tuple[WorkerPort, WorkSpec]] = []
    for number in range(count):
        each = endpoint.profile.concurrency or DEFAULT_CONCURRENCY
        spec = WorkSpec(
            form=grid.form,
            choice=ProviderChoice(endpoint.profile, endpoint.why),
            addresses=(endpoint.base_url, *endpoint.others),
            key_file=str(key_file.resolve()) if key_file else None,
            concurrency=each if most is None else most // count + (number < most % count),
            timeout_s=limits.timeout_s,
            part=session.share / count,
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
            has_budget=session.budget is not None,
            rates=session.budget.rates if session.budget else None,
            must_know=session.budget.must_know if session.budget else False,
            has_succeeded=session.progress.already_done > 0,
        )
        workers.append((_RayPort(actor.remote(), session.observer.say), spec))
    return workers


class _RayPort:
    """A worker in an actor.

    Args:
        actor: its handle.
        say: called when the cluster has no room for it.
    """

    def __init__(self, actor: Any, say: Callable[[str], None]) -> None:
        self._actor = actor
        self._say = say
        self._has_said = False

    async def open(self, spec: WorkSpec) -> bytes:
        opening = asyncio.ensure_future(_answer(self._actor.open.remote(spec)))
        if not self._has_said and not (await asyncio.wait([opening], timeout=_PATIENCE_S))[0]:
            self._say("waiting for a node with a free CPU to place a worker")
            self._has_said = True
        return cast("bytes", await opening)

    async def exchange(self, order: bytes) -> bytes:
        return cast("bytes", await _answer(self._actor.exchange.remote(order)))

    async def drain(self, drops: bool) -> None:
        await _answer(self._actor.drain.remote(drops))


async def _answer(reference: Any) -> Any:
    """The result of a call.

    Raises:
        WorkerLostError: the actor, its node or the network is gone, perhaps for a moment.
        AsyncgenError: the actor can never start.
    """
    try:
        return await asyncio.shield(asyncio.wrap_future(reference.future()))
    except RayTaskError:
        raise  # a bug in the worker
    except RayActorError as error:
        if error.actor_init_failed:
            lines = str(error).strip().split("\n")
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            raise AsyncgenError(
                "a worker cannot start on a node of the cluster",
                cause=lines[-1],
                help_text=f"every node needs Python {version} and pip install 'asyncgen[ray]=={__version__}'",
                code="no_worker",
            ) from error
        raise WorkerLostError(str(error)) from error
    except RayError as error:
        raise WorkerLostError(str(error)) from error
