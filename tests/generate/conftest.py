"""What the tests of this room share: rows made up."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import msgspec
import pytest

from asyncgen.run.records import Failure, FailureError, Record, Usage


def key(number: int) -> bytes:
    return blake2b(number.to_bytes(8, "big"), digest_size=16).digest()


@pytest.fixture(scope="session")
def key_of_row() -> Callable[[int], bytes]:
    """The key of row `number` of a made-up grid."""
    return key


@pytest.fixture(scope="session")
def make_record() -> Callable[..., Record]:
    """An answer for row `number`; keyword arguments replace fields."""

    def make(number: int, **fields: Any) -> Record:
        record = Record(
            key=key(number).hex(),
            index=number,
            repeat=0,
            variables={"city": f"city {number}"},
            prompt=f"city {number}",
            completion="An answer.",
            model="model-1",
            finish_reason="stop",
            usage=Usage(prompt_tokens=10, completion_tokens=3),
            attempts=1,
            check_failures=[],
            latency_s=0.5,
            created=1_764_000_000,
        )
        return msgspec.structs.replace(record, **fields)

    return make


@pytest.fixture(scope="session")
def make_failure() -> Callable[..., Failure]:
    """The giving up of row `number`; keyword arguments replace fields."""

    def make(number: int, **fields: Any) -> Failure:
        failure = Failure(
            key=key(number).hex(),
            index=number,
            repeat=0,
            variables={"city": f"city {number}"},
            error=FailureError(type="bad_request", status=400, message="no"),
            attempts=1,
            maybe_paid=0,
            created=1_764_000_000,
        )
        return msgspec.structs.replace(failure, **fields)

    return make
