"""The openai SDK in the same place: one gather over a semaphore, as its users write it, and one write a row.

python benchmarks/sdk_loop.py http://127.0.0.1:PORT/v1 5000 100 /tmp/sdk.jsonl aiohttp|httpx
"""

from __future__ import annotations

import asyncio
import os
import sys

import openai
import orjson
from tight_loop import combinations

_SYSTEM = "You write short direct marketing messages."


async def main() -> None:
    base_url, count, concurrency, path, transport = sys.argv[1:6]
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    http_client = openai.DefaultAioHttpClient() if transport == "aiohttp" else openai.DefaultAsyncHttpxClient()
    places = asyncio.Semaphore(int(concurrency))
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", http_client=http_client) as client:

        async def one(index: int, sector: str, city: str) -> None:
            prompt = f"Write one message for a {sector} in {city}, at most two sentences."
            async with places:
                answer = await client.chat.completions.create(
                    model="fake-1",
                    messages=[{"role": "system", "content": _SYSTEM}, {"role": "user", "content": prompt}],
                    max_completion_tokens=200,
                    temperature=1,
                )
            record = {"index": index, "prompt": f"{sector}, {city}", "completion": answer.choices[0].message.content}
            os.write(out, orjson.dumps(record) + b"\n")

        await asyncio.gather(*(one(*row) for row in combinations(int(count))))
    os.close(out)


if __name__ == "__main__":
    asyncio.run(main())
