"""The bound: the tightest loops over aiohttp, orjson and uvloop that do the same work as `asyncgen generate`.

Renders each prompt, posts it, parses the answer, builds the record and writes it. There are no limits, no retries, no
deadlines, no checks and no resume: what asyncgen costs above it is the price of those.

Plain, each worker does all that is to be done for its row, with one write a row, as one writes it down. In rounds, as
asyncgen does it, the workers do nothing but HTTP: the answers of a turn of the event loop are parsed and written
together, with one write, and the next bodies are made together, before the workers go on.

    python benchmarks/tight_loop.py http://127.0.0.1:PORT/v1 5000 100 /tmp/tight.jsonl [plain]
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

import aiohttp
import orjson
import uvloop
from multidict import istr
from yarl import URL

_SYSTEM = "You write short direct marketing messages."
_MODEL = "fake-1"
_REQUEST_ID = istr("x-request-id")

Row = tuple[int, str, str]
Came = tuple[Row, bytes, float, aiohttp.ClientResponse, bytes]  # row, body, latency, response, its content


def axes(count: int) -> tuple[list[str], list[str]]:
    """Two axes of so many combinations in all; `count` is 1 or a multiple of a hundred."""
    cities = min(count, 100)
    return [f"sector {n}" for n in range(count // cities)], [f"city {n}" for n in range(cities)]


def combinations(count: int) -> Iterator[Row]:
    """The rows of a grid over `axes`, the last one fastest."""
    return ((index, sector, city) for index, (sector, city) in enumerate(itertools.product(*axes(count))))


def body_of(row: Row) -> bytes:
    _, sector, city = row
    prompt = f"Write one message for a {sector} in {city}, at most two sentences."
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": prompt}]
    return orjson.dumps({"model": _MODEL, "messages": messages, "max_completion_tokens": 200, "temperature": 1})


def line_of(came: Came) -> bytes:
    (index, sector, city), body, latency_s, response, content = came
    answer = orjson.loads(content)
    choice, usage = answer["choices"][0], answer["usage"]
    record = {
        "key": blake2b(body, digest_size=16).hexdigest(),
        "index": index,
        "repeat": 0,
        "variables": {"sector": sector, "city": city},
        "prompt": f"{sector}, {city}",
        "completion": choice["message"]["content"],
        "model": answer["model"],
        "finish_reason": choice["finish_reason"],
        "usage": {
            "prompt_tokens": usage["prompt_tokens"],
            "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
            "completion_tokens": usage["completion_tokens"],
            "reasoning_tokens": usage["completion_tokens_details"]["reasoning_tokens"],
        },
        "attempts": 1,
        "check_failures": [],
        "latency_s": latency_s,
        "created": int(time.time()),
        "request_id": response.headers.get(_REQUEST_ID),
    }
    return orjson.dumps(record) + b"\n"


async def work_plainly(session: aiohttp.ClientSession, url: URL, rows: Iterator[Row], out: int) -> None:
    for row in rows:
        body = body_of(row)
        began = time.perf_counter()
        response = await session.post(url, data=body, allow_redirects=False)  # a body read whole needs no `async with`
        content = await response.read()
        os.write(out, line_of((row, body, time.perf_counter() - began, response, content)))


@dataclass
class Rounds:
    """What the workers brought in this turn, and wait for."""

    rows: Iterator[Row]
    out: int
    loop: asyncio.AbstractEventLoop
    came: list[Came] = field(default_factory=list)
    waiting: list[asyncio.Future[tuple[Row, bytes] | None]] = field(default_factory=list)

    def next_row(self) -> asyncio.Future[tuple[Row, bytes] | None]:
        if not self.waiting:
            self.loop.call_soon(self.round)
        place: asyncio.Future[tuple[Row, bytes] | None] = self.loop.create_future()
        self.waiting.append(place)
        return place

    def round(self) -> None:
        if self.came:
            os.write(self.out, b"".join(map(line_of, self.came)))
            self.came.clear()
        for place in self.waiting:
            row = next(self.rows, None)
            place.set_result(row and (row, body_of(row)))
        self.waiting.clear()


async def work_in_rounds(session: aiohttp.ClientSession, url: URL, rounds: Rounds) -> None:
    while (given := await rounds.next_row()) is not None:
        row, body = given
        began = time.perf_counter()
        response = await session.post(url, data=body, allow_redirects=False)
        content = await response.read()
        rounds.came.append((row, body, time.perf_counter() - began, response, content))


async def main() -> None:
    base_url, count, concurrency, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    gc.freeze()  # what was made up to here is here to stay, and what comes leaves no cycles behind
    gc.set_threshold(50_000)
    async with aiohttp.ClientSession(
        headers={"Content-Type": "application/json"},
        connector=aiohttp.TCPConnector(limit=concurrency),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        url, rows = URL(f"{base_url}/chat/completions"), combinations(count)
        rounds = Rounds(rows, out, asyncio.get_running_loop())
        is_plain = "plain" in sys.argv[5:]
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                work = work_plainly(session, url, rows, out) if is_plain else work_in_rounds(session, url, rounds)
                group.create_task(work)
    os.close(out)


if __name__ == "__main__":
    uvloop.run(main())
