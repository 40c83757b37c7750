"""The aiohttp application: routes connected to stores, engine and background work.

Listening is left to `server`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from asyncgen.serve.api.answers import AnswerRoutes
from asyncgen.serve.api.files import BatchRoutes, FileRoutes
from asyncgen.serve.api.fine_tuning import FineTuningRoutes
from asyncgen.serve.api.models import ModelRoutes
from asyncgen.serve.api.responses import ResponseRoutes
from asyncgen.serve.batches import BatchQueue, BatchStore, BatchWork
from asyncgen.serve.guard import ServerAccess, guarding, signing
from asyncgen.serve.stores.files import FileStore
from asyncgen.serve.stores.jobs import JobStore
from asyncgen.serve.stores.models import ModelStore
from asyncgen.serve.tuning.queue import TuningQueue
from asyncgen.serve.tuning.samples import TuningWork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aiohttp.typedefs import Middleware

    from asyncgen.serve.api.answers import Admit
    from asyncgen.serve.data_folder import DataFolder
    from asyncgen.serve.engine import ModelEngine
    from asyncgen.serve.wire import Clock

_LARGEST_BODY = 16 * 1024 * 1024  # files are streamed and have their own caps


@dataclass(frozen=True, slots=True)
class Service:
    """The routes and what works behind them."""

    routes: tuple[web.RouteDef, ...]
    tuning: TuningQueue
    batching: BatchQueue

    @property
    def is_busy(self) -> bool:
        """Whether work goes on that no client need wait for."""
        return self.tuning.is_busy or self.batching.is_busy


def build_service(engine: ModelEngine, folder: DataFolder, admit: Admit, clock: Clock) -> Service:
    """Open the stores, and connect the parts.

    Args:
        engine: answers and trains.
        folder: the data folder.
        admit: counts a call against the rate limits.
        clock: Unix seconds.

    Returns:
        The service.
    """
    files = FileStore(folder.files, clock)
    models = ModelStore(folder.root, engine.traits)
    jobs = JobStore(folder.jobs, clock)
    work = TuningWork(engine, jobs=jobs, files=files, models=models, root=folder.root, clock=clock)
    tuning = TuningQueue(jobs, work, engine.traits.notice, clock)
    answers = AnswerRoutes(engine, models, admit, clock)
    batches = BatchStore(folder.batches)
    parallel = max(1, engine.traits.parallel - 1)  # one is left for requests from outside
    batch_work = BatchWork(answers.answer, batches, files, parallel=parallel, clock=clock)
    batching = BatchQueue(batches, batch_work, clock)
    tables = (
        answers.table(),
        ResponseRoutes(engine, models, admit, clock).table(),
        ModelRoutes(engine, models, jobs).table(),
        FileRoutes(files).table(),
        BatchRoutes(batching, batches, files, clock).table(),
        FineTuningRoutes(engine, tuning, jobs=jobs, files=files, models=models, clock=clock).table(),
    )
    return Service(tuple(route for table in tables for route in table), tuning, batching)


def build_app(
    routes: Iterable[web.RouteDef], access: ServerAccess, weather: Middleware | None, clock: Callable[[], float]
) -> web.Application:
    """Build the application.

    Args:
        routes: its routes.
        access: who may use it.
        weather: middleware that causes faults; None for no faults.
        clock: monotonic seconds.

    Returns:
        The application.
    """
    middlewares = [guarding(access, clock), *([weather] if weather else [])]
    app = web.Application(middlewares=middlewares, client_max_size=_LARGEST_BODY)
    app.router.add_routes(routes)
    app.on_response_prepare.append(signing(access, clock))
    return app
