"""The aiohttp application: routes connected to stores, engine and background work; and the middleware around them.

Every request passes the middleware first, every answer last: origin checks (`local_http`), the key if one is required,
CORS for pages that may use the server, request ids, the access log, and the form of errors. Routes are left to `api`,
listening to `server`.
"""

from __future__ import annotations

import hmac
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import HttpProcessingError

from asyncgen.errors import AsyncgenError
from asyncgen.local_http import ForeignRequestError
from asyncgen.serve.api.answers import AnswerRoutes
from asyncgen.serve.api.files import BatchRoutes, FileRoutes
from asyncgen.serve.api.fine_tuning import FineTuningRoutes, ModelRoutes
from asyncgen.serve.api.responses import ResponseRoutes
from asyncgen.serve.batches import BatchQueue, BatchStore, BatchWork
from asyncgen.serve.stores.files import FileStore
from asyncgen.serve.stores.jobs import JobStore
from asyncgen.serve.stores.models import ModelStore
from asyncgen.serve.tuning.queue import TuningQueue
from asyncgen.serve.tuning.work import TuningStores, TuningWork
from asyncgen.serve.wire import ApiError, new_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from aiohttp.typedefs import Handler, Middleware

    from asyncgen.local_http import RequestGuard
    from asyncgen.providers.endpoint import Secret
    from asyncgen.serve.api.answers import Admit
    from asyncgen.serve.data_folder import DataFolder
    from asyncgen.serve.engine import ModelEngine
    from asyncgen.serve.wire import Clock


_LARGEST_BODY = 16 * 1024 * 1024  # files are streamed and have their own caps
HEALTH_PATH = "/health"  # polled by container schedulers, which have no key
_ID = web.RequestKey("asyncgen_request_id", str)
_BEGAN = web.RequestKey("asyncgen_request_began", float)
_EXPOSED = "x-request-id, openai-processing-ms, retry-after, retry-after-ms"
_PREFLIGHT_S = "600"


@dataclass(frozen=True, slots=True)
class Service:
    """The routes, and the queues of fine-tuning jobs and batches."""

    routes: tuple[web.RouteDef, ...]
    tuning: TuningQueue
    batching: BatchQueue

    @property
    def is_busy(self) -> bool:
        """Whether a fine-tuning job or a batch is waiting or running."""
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
    work = TuningWork(engine, TuningStores(jobs, files, models, folder.root, clock))
    tuning = TuningQueue(jobs, work, engine.traits.notice, clock)
    answers = AnswerRoutes(engine, models, admit, clock)
    batches = BatchStore(folder.batches)
    parallel = max(1, engine.traits.parallel - 1)  # one slot is left for requests of clients
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
    routes: Iterable[web.RouteDef], access: ServerAccess, faults: Middleware | None, clock: Callable[[], float]
) -> web.Application:
    """Build the application.

    Args:
        routes: its routes.
        access: who may use it.
        faults: middleware that causes faults; None for no faults.
        clock: monotonic seconds.

    Returns:
        The application.
    """
    middlewares = [access_middleware(access, clock), *([faults] if faults else [])]
    app = web.Application(middlewares=middlewares, client_max_size=_LARGEST_BODY)
    app.router.add_routes(routes)
    app.on_response_prepare.append(response_hook(access, clock))
    return app


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAccess:
    """Who may use the server.

    Attributes:
        guard: refuses requests of foreign pages.
        key: API key that every request needs; None for none.
    """

    guard: RequestGuard
    key: Secret | None = None

    def check(self, request: web.Request) -> None:
        """Raises ApiError: 400, 401, 403."""
        try:
            self.guard.check(request)
        except ForeignRequestError as error:
            raise ApiError(error.status, str(error), code=error.code) from None
        if self.key is None or request.path == HEALTH_PATH or self._is_preflight(request):
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self.key.reveal().encode())
        if scheme.lower() != "bearer" or not is_right:
            message = "This server requires its API key: send the header 'Authorization: Bearer KEY'."
            raise ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    def preflight(self, request: web.Request) -> web.Response | None:
        """The answer to a browser's CORS preflight request; None for any other request."""
        if not self._is_preflight(request):
            return None
        headers = {
            "Access-Control-Allow-Methods": "GET, POST, DELETE",
            "Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", ""),
            "Access-Control-Max-Age": _PREFLIGHT_S,
        }
        if request.headers.get("Access-Control-Request-Private-Network"):
            headers["Access-Control-Allow-Private-Network"] = "true"
        return web.Response(status=204, headers=headers)

    def _is_preflight(self, request: web.Request) -> bool:
        asks = "Access-Control-Request-Method" in request.headers
        return request.method == "OPTIONS" and asks and self.guard.allows_origin(request)


def access_middleware(access: ServerAccess, clock: Callable[[], float]) -> Middleware:
    """Make the outermost middleware.

    Args:
        access: who may use the server.
        clock: monotonic seconds.

    Returns:
        The middleware.
    """

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[_ID] = new_id("req_", 32)
        request[_BEGAN] = clock()
        try:
            access.check(request)
            return access.preflight(request) or await handler(request)
        except ApiError as error:
            return error.response()
        except web.HTTPException as error:
            return _api_error(request, error).response()
        except (web.RequestPayloadError, HttpProcessingError) as error:  # a body that is not encoded as its headers say
            reason = str(error.__cause__ or error).split("message:")[-1].strip()
            return ApiError(400, f"The request's body cannot be read: {reason}.", code="invalid_body").response()
        except (AsyncgenError, OSError) as error:  # most likely a full disk: the request fails, the server continues
            _log.error("%s: %s %s: %s", request[_ID], request.method, request.path, error)
            return _io_error(error).response()
        except Exception:  # noqa: BLE001 - the edge: a bug is logged whole, and answered as the API would
            _log.exception("%s: %s %s", request[_ID], request.method, request.path)
            return ApiError(500, "The server had an internal error; see its log.", kind="server_error").response()

    return guarded


def response_hook(
    access: ServerAccess, clock: Callable[[], float]
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Make the hook that adds the request's id and time, and CORS headers, to a response."""

    async def sign(request: web.Request, response: web.StreamResponse) -> None:
        if identifier := request.get(_ID):
            response.headers["x-request-id"] = identifier
            response.headers["openai-processing-ms"] = str(int((clock() - request[_BEGAN]) * 1000))
        if access.guard.allowed_origins:
            response.headers["Vary"] = "Origin"
            if access.guard.allows_origin(request):
                response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
                response.headers["Access-Control-Expose-Headers"] = _EXPOSED

    return sign


class AccessLog(AbstractAccessLogger):
    """Access log: a line for each answered request with time, request, status, bytes, milliseconds and id."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        self.logger.info(
            "%s %s %s %d %d B %.0f ms %s",
            f"{datetime.now():%H:%M:%S}",  # noqa: DTZ005 - the time of whoever reads it
            request.method,
            request.path_qs,
            response.status,
            response.body_length,
            time * 1000,
            response.headers.get("x-request-id", "-"),
        )


def request_log(say: Callable[[str], None]) -> logging.Logger:
    """A logger that passes its lines to `say`."""

    class Saying(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage())

    log = logging.Logger("asyncgen.serve.requests", logging.INFO)  # noqa: LOG001 - of this server alone
    log.addHandler(Saying())
    return log


def _api_error(request: web.Request, error: web.HTTPException) -> ApiError:
    if error.status == web.HTTPNotFound.status_code:
        return _unknown_url(request)
    if error.status == web.HTTPMethodNotAllowed.status_code:
        message = f"Not allowed to {request.method} on {request.path}."
        return ApiError(405, message, code="method_not_supported", headers={"Allow": error.headers["Allow"]})
    return ApiError(error.status, f"{error.reason}: {error.text or ''}".strip(": "))


def _unknown_url(request: web.Request) -> ApiError:
    """The 404 for an unknown path; for a path of the API that this server lacks, it lists what the server has."""
    known = sorted({path for resource in request.app.router.resources() if (path := resource.canonical)})
    there = ", ".join(path for path in known if path.startswith("/v1/") and "{" not in path)
    message = f"Invalid URL ({request.method} {request.path})"
    return ApiError(404, f"{message}; this server has {there}." if there else message, code="unknown_url")


def _io_error(error: AsyncgenError | OSError) -> ApiError:
    if isinstance(error, OSError):
        message = f"The server could not read or write its files: {error.strerror or error}."
    else:
        message = f"The server failed: {error}" + (f" ({error.cause})" if error.cause else "") + "."
    return ApiError(500, message, kind="server_error", code="io_error")
