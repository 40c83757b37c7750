"""Who uses the server, and when it may end by itself.

Owns the count of attached clients (each holds one streaming answer of `/asyncgen/attach` open, so that a
client that is killed is noticed at once) and the rule for an idle end. Does not end anything.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import web

from asyncgen.local_http import json_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncgen.serve.engine import Traits

_HEARTBEAT_S = 10.0
_TICK_S = 0.25


class Attachment:
    """The clients of a server.

    Args:
        traits: for `/health`.
        is_busy: whether work goes on that no client waits for.
        clock: monotonic seconds.
        grace_s: before the first client came.
        linger_s: after the last client left.
    """

    def __init__(
        self,
        traits: Traits,
        is_busy: Callable[[], bool],
        clock: Callable[[], float],
        *,
        grace_s: float = 60.0,
        linger_s: float = 3.0,
    ) -> None:
        self._traits = traits
        self._is_busy = is_busy
        self._clock = clock
        self._grace_s = grace_s
        self._linger_s = linger_s
        self._attached = 0
        self._left_at: float | None = None
        self._ending = asyncio.Event()

    def table(self) -> list[web.RouteDef]:
        return [web.get("/health", self._health), web.get("/asyncgen/attach", self._attach)]

    def end(self) -> None:
        """Let the attached clients go: the server ends."""
        self._ending.set()

    async def until_idle(self) -> None:
        """Return once nobody has been attached for a while and no work goes on."""
        begun_at = worked_at = self._clock()
        while True:
            await asyncio.sleep(_TICK_S)
            now = self._clock()
            if self._is_busy():
                worked_at = now
            elif not self._attached and now - worked_at >= self._linger_s:
                came_and_went = self._left_at is not None and now - self._left_at >= self._linger_s
                if came_and_went or (self._left_at is None and now - begun_at >= self._grace_s):
                    return

    async def _health(self, _request: web.Request) -> web.Response:
        return json_response(
            {
                "status": "ok",
                "engine": self._traits.name,
                "model": self._traits.base_model,
                "attached": self._attached,
            }
        )

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain", "Cache-Control": "no-cache"})
        self._attached += 1
        try:
            await response.prepare(request)
            while not self._ending.is_set():
                await response.write(b"attached\n")  # also finds out that a client is gone without a word
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), _HEARTBEAT_S)
        finally:
            self._attached -= 1
            self._left_at = self._clock()
        return response
