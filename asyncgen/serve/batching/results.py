"""What a batch has answered so far: two growing files, and their sums.

Owns the lines of output and error files, and the totals over them. After a restart the files tell what is done; a
line that a crash tore is cut off, and its request is answered again. Does not know where answers come from.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING, Any

import orjson

from asyncgen.json_text import decode_loosely
from asyncgen.serve.stores.batches import RequestCounts
from asyncgen.serve.wire import new_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncgen.serve.wire import ApiError

OUTPUT, ERRORS = "output.jsonl", "errors.jsonl"
_OK = 200


class BatchResults:
    """The answers of one batch; opened by `opened_results`.

    Args:
        output, errors: unbuffered, open for appending.
        total: requests in the input file.

    Attributes:
        dropped_any: whether some request was never asked.
    """

    def __init__(self, output: IO[bytes], errors: IO[bytes], total: int) -> None:
        self._output = output
        self._errors = errors
        self._total = total
        self._settled: set[str] = set()
        self._completed = 0
        self.dropped_any = False
        self._tokens: Counter[str] = Counter()

    def is_settled(self, custom_id: str) -> bool:
        return custom_id in self._settled

    @property
    def counts(self) -> RequestCounts:
        failed = len(self._settled) - self._completed
        return RequestCounts(total=self._total, completed=self._completed, failed=failed)

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens of all answers, in the API's words."""
        prompt, completion = self._tokens["prompt_tokens"], self._tokens["completion_tokens"]
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": self._tokens["cached_tokens"]},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + completion,
        }

    def answered(self, custom_id: str, body: dict[str, Any]) -> None:
        line = _line(custom_id, response=_response(_OK, body))
        self._output.write(orjson.dumps(line) + b"\n")
        self.replay(line)

    def refused(self, custom_id: str, refusal: ApiError) -> None:
        line = _line(custom_id, response=_response(refusal.status, refusal.body()))
        self._errors.write(orjson.dumps(line) + b"\n")
        self.replay(line)

    def dropped(self, custom_id: str, code: str, message: str) -> None:
        """It was never asked."""
        line = _line(custom_id, error={"code": code, "message": message})
        self._errors.write(orjson.dumps(line) + b"\n")
        self.replay(line)

    def replay(self, line: dict[str, Any]) -> None:
        """Take a line into the sums."""
        self._settled.add(line["custom_id"])
        response = line["response"]
        self.dropped_any = self.dropped_any or response is None
        if response and response["status_code"] == _OK:
            self._completed += 1
            usage = response["body"]["usage"]
            self._tokens.update(
                prompt_tokens=usage["prompt_tokens"],
                completion_tokens=usage["completion_tokens"],
                cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
            )


@contextmanager
def opened_results(folder: Path, total: int) -> Iterator[BatchResults]:
    """The results in a batch's folder, what is there already taken into the sums.

    Args:
        folder: the batch's own.
        total: requests in the input file.
    """
    with ExitStack() as stack:
        files = [stack.enter_context((folder / name).open("a+b", buffering=0)) for name in (OUTPUT, ERRORS)]
        results = BatchResults(files[0], files[1], total)
        for file in files:
            for line in _whole_lines(file):
                results.replay(line)
        yield results


def _whole_lines(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    whole = 0
    file.seek(0)
    for line in file:
        if not line.endswith(b"\n"):
            file.truncate(whole)
            return
        whole += len(line)
        yield decode_loosely(line)


def _line(
    custom_id: str, *, response: dict[str, Any] | None = None, error: dict[str, str] | None = None
) -> dict[str, Any]:
    return {"id": new_id("batch_req_"), "custom_id": custom_id, "response": response, "error": error}


def _response(status: int, body: dict[str, Any]) -> dict[str, Any]:
    return {"status_code": status, "request_id": new_id("req_", 32), "body": body}
