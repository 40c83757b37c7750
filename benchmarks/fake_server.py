"""A chat completions server that costs next to nothing, so that what is measured is the client.

One process, one loop, a protocol that only looks for Content-Length. It counts what it was asked, the most requests
it ever had in flight, and the busiest second; `GET /stats` tells. With --rpm it keeps a bucket and answers 429.

    python benchmarks/fake_server.py --latency-ms 1000 --rpm 600 --bucket 10     # prints its port
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections import deque
from typing import cast

import orjson
import uvloop

_CONTENT_LENGTH = b"content-length:"
_TEXT = "Small shops in Brussels can take cards, phones and links from today: one contract, one price, no rental."
_ANSWER = orjson.dumps(
    {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion",
        "created": 1790000000,
        "model": "fake-1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": _TEXT, "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 60,
            "completion_tokens": 24,
            "total_tokens": 84,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }
)
_REFUSAL = orjson.dumps({"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}})


class Counts:
    """What the server saw, and its bucket of requests."""

    def __init__(self, rpm: float, bucket: float) -> None:
        self.rpm, self.bucket = rpm, bucket
        self.level, self.level_at = bucket, time.monotonic()
        self.served = self.refused = self.in_flight = self.most_in_flight = self.most_in_a_second = 0
        self.first = self.last = 0.0
        self._recent: deque[float] = deque()

    def arrive(self) -> float | None:
        """Count a request; seconds until it would be allowed, None when it is."""
        now = time.monotonic()
        self.first = self.first or now
        self.last = now
        self._count_second(now)
        if not self.rpm:
            return None
        self.level = min(self.level + (now - self.level_at) * self.rpm / 60, self.bucket)
        self.level_at = now
        if self.level < 1:
            self.refused += 1
            return (1 - self.level) * 60 / self.rpm
        self.level -= 1
        return None

    def _count_second(self, now: float) -> None:
        recent = self._recent
        recent.append(now)
        while recent[0] <= now - 1:
            recent.popleft()
        self.most_in_a_second = max(self.most_in_a_second, len(recent))

    def begin(self) -> None:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def stats(self) -> bytes:
        return orjson.dumps(
            {
                "served": self.served,
                "refused": self.refused,
                "most_in_flight": self.most_in_flight,
                "most_in_a_second": self.most_in_a_second,
                "first": self.first,
                "span_s": self.last - self.first,
            }
        )


def _reply(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


class Connection(asyncio.Protocol):
    """One client's connection; requests come one after the other."""

    def __init__(self, counts: Counts, latency_s: float, *, tells_limits: bool) -> None:
        self.counts, self.latency_s = counts, latency_s
        limits = [f"x-ratelimit-limit-requests: {counts.rpm:.0f}"] if tells_limits else []
        self.answer = _reply("200 OK", _ANSWER, "x-request-id: req_0", *limits)
        self.unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own is none by its class

    def data_received(self, data: bytes) -> None:
        self.unread += data
        while (end := self.unread.find(b"\r\n\r\n")) >= 0:
            head = self.unread[:end].lower()
            at = head.find(_CONTENT_LENGTH)
            length = int(head[at + len(_CONTENT_LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.unread) < end + 4 + length:
                return
            self.unread = self.unread[end + 4 + length :]
            self._respond(head)

    def _respond(self, head: bytes) -> None:
        if head.startswith(b"get /stats"):
            self.transport.write(_reply("200 OK", self.counts.stats()))
        elif (wait_s := self.counts.arrive()) is not None:
            wait = f"retry-after-ms: {wait_s * 1000:.0f}"
            self.transport.write(_reply("429 Too Many Requests", _REFUSAL, wait))
        else:
            self.counts.begin()
            if self.latency_s:
                asyncio.get_running_loop().call_later(self.latency_s, self._finish)
            else:
                self._finish()

    def _finish(self) -> None:
        self.counts.in_flight -= 1
        self.counts.served += 1
        if not self.transport.is_closing():
            self.transport.write(self.answer)


async def serve(options: argparse.Namespace) -> None:
    counts = Counts(options.rpm, options.bucket)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(counts, options.latency_ms / 1000, tells_limits=options.tell_limits),
        "127.0.0.1",
        options.port,
        backlog=4096,
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-ms", type=float, default=0)
    parser.add_argument("--rpm", type=float, default=0, help="enforce so many requests per minute")
    parser.add_argument("--bucket", type=float, default=10, help="and so many at once")
    parser.add_argument("--tell-limits", action="store_true", help="send x-ratelimit-limit-requests")
    parser.add_argument("--core", type=int, help="run on this core only (Linux)")
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    uvloop.run(serve(options))


if __name__ == "__main__":
    main()
