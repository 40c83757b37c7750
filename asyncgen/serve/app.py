"""The application: the routes over the stores, the engine and the work between them.

Owns which part gets which other one. Does not listen; `server` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from asyncgen.serve.api.answers import AnswerRoutes
from asyncgen.serve.api.files import FileRoutes
from asyncgen.serve.api.fine_tuning import FineTuningRoutes
from asyncgen.serve.api.models import ModelRoutes
from asyncgen.serve.guard import guarding, sign
from asyncgen.serve.stores.files import FileStore
from asyncgen.serve.stores.jobs import JobStore
from asyncgen.serve.stores.models import ModelStore
from asyncgen.serve.tuning.queue import TuningQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aiohttp.typedefs import Middleware

    from asyncgen.serve.api.answers import Admit
    from asyncgen.serve.data_folder import DataFolder
    from asyncgen.serve.engine import Engine
    from asyncgen.serve.wire import Clock

_LARGEST_BODY = 16 * 1024 * 1024  # files are streamed and have their own caps


@dataclass(frozen=True, slots=True)
class Service:
    """The routes and what works behind them."""

    routes: tuple[web.RouteDef, ...]
    tuning: TuningQueue


def build_service(engine: Engine, folder: DataFolder, admit: Admit, clock: Clock) -> Service:
    """Open the stores and put the parts together.

    Args:
        engine: what answers and trains.
        folder: where everything is kept.
        admit: takes a call out of the limits.
        clock: Unix seconds.
    """
    files = FileStore(folder.files, clock)
    models = ModelStore(folder.root, engine.traits)
    jobs = JobStore(folder.jobs, clock)
    tuning = TuningQueue(engine, jobs, files, models, root=folder.root, clock=clock)
    tables = (
        AnswerRoutes(engine, models.adapter, admit, clock).table(),
        ModelRoutes(models).table(),
        FileRoutes(files).table(),
        FineTuningRoutes(engine, tuning, jobs=jobs, files=files, models=models, clock=clock).table(),
    )
    return Service(tuple(route for table in tables for route in table), tuning)


def build_app(
    routes: Iterable[web.RouteDef], host: str, weather: Middleware | None, clock: Callable[[], float]
) -> web.Application:
    """The application over these routes.

    Args:
        routes: what it answers.
        host: where it will listen.
        weather: makes faults; None for fair weather.
        clock: monotonic seconds.
    """
    middlewares = [guarding(host, clock), *([weather] if weather else [])]
    app = web.Application(middlewares=middlewares, client_max_size=_LARGEST_BODY)
    app.router.add_routes(routes)
    app.on_response_prepare.append(sign(clock))
    return app
