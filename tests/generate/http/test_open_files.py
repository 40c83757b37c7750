"""Facts about the number of open files."""

from __future__ import annotations

import resource

import pytest

from asyncgen.errors import UsageError
from asyncgen.generate.http.client import allow_connections


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The limits of a make-believe system, the last one in force."""
    history = [(256, 4096)]

    def set_limit(_: int, pair: tuple[int, int]) -> None:
        if pair[0] > pair[1]:
            raise ValueError("current limit exceeds maximum limit")
        history.append(pair)

    monkeypatch.setattr(resource, "getrlimit", lambda _: history[-1])
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    return history


def test_what_is_allowed_already_is_left_as_it_is(limits: list[tuple[int, int]]) -> None:
    allow_connections(64)
    assert limits == [(256, 4096)]


def test_the_limit_is_raised_as_far_as_is_needed(limits: list[tuple[int, int]]) -> None:
    allow_connections(1000)
    assert limits[-1] == (1128, 4096)


def test_more_than_the_system_allows_is_refused_with_what_it_allows(limits: list[tuple[int, int]]) -> None:
    with pytest.raises(UsageError, match="allows 4,096") as refused:
        allow_connections(5000)
    assert "--concurrency 3968" in (refused.value.help_text or "")


def test_a_system_that_does_not_keep_its_word_is_taken_as_it_is(
    limits: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    with pytest.raises(UsageError, match="allows 256"):
        allow_connections(1000)
    assert limits == [(256, 4096)]
