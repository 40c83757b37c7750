"""The bound: the tightest loop over aiohttp, orjson and uvloop that does the same work as `asyncgen generate`.

Renders each prompt, posts it, parses the answer, builds the record and writes it with one call. It has no limits, no
retries, no deadlines, no checks and no resume: what asyncgen costs above it is the price of those.

    python benchmarks/tight_loop.py http://127.0.0.1:PORT/v1 5000 100 /tmp/tight.jsonl
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import sys
import time
from collections.abc import Iterator
from hashlib import blake2b

import aiohttp
import orjson
import uvloop
from multidict import istr
from yarl import URL

_SYSTEM = "You write short direct marketing messages."
_MODEL = "fake-1"
_REQUEST_ID = istr("x-request-id")


def axes(count: int) -> tuple[list[str], list[str]]:
    """Two axes of so many combinations in all; `count` is 1 or a multiple of a hundred."""
    cities = min(count, 100)
    return [f"sector {n}" for n in range(count // cities)], [f"city {n}" for n in range(cities)]


def combinations(count: int) -> Iterator[tuple[int, str, str]]:
    """The rows of a grid over `axes`, the last one fastest."""
    return ((index, sector, city) for index, (sector, city) in enumerate(itertools.product(*axes(count))))


async def work(session: aiohttp.ClientSession, url: URL, rows: Iterator[tuple[int, str, str]], out: int) -> None:
    for index, sector, city in rows:
        prompt = f"Write one message for a {sector} in {city}, at most two sentences."
        messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": prompt}]
        body = orjson.dumps({"model": _MODEL, "messages": messages, "max_completion_tokens": 200, "temperature": 1})
        key = blake2b(body, digest_size=16).hexdigest()
        began = time.perf_counter()
        response = await session.post(url, data=body, allow_redirects=False)  # a body read whole needs no `async with`
        answer = orjson.loads(await response.read())
        request_id = response.headers.get(_REQUEST_ID)
        choice, usage = answer["choices"][0], answer["usage"]
        record = {
            "key": key,
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
            "latency_s": time.perf_counter() - began,
            "created": int(time.time()),
            "request_id": request_id,
        }
        os.write(out, orjson.dumps(record) + b"\n")


async def main() -> None:
    base_url, count, concurrency, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    gc.freeze()  # what was made up to here is here to stay
    async with aiohttp.ClientSession(
        headers={"Content-Type": "application/json"},
        connector=aiohttp.TCPConnector(limit=concurrency),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        url, rows = URL(f"{base_url}/chat/completions"), combinations(count)
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work(session, url, rows, out))
    os.close(out)


if __name__ == "__main__":
    uvloop.run(main())
