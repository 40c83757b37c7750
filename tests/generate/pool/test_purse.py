"""asyncgen.generate.pool.budget: requests wait for one another's money. Run: pytest tests/generate/test_purse.py."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import orjson

from asyncgen.generate.http.completer import Answer, AttemptError, ErrorClass
from asyncgen.generate.pool.budget import Budget, BudgetGate
from asyncgen.providers.price import TokenRates
from asyncgen.run.records import Usage

BODY = orjson.dumps({"messages": [{"role": "user", "content": "x" * 4}]})
HELD = 20.0  # (1 + 4 + 3) * 1.25 of the prompt, and 10 of the answer


def purse(max_cost_usd: float) -> tuple[BudgetGate, Budget]:
    budget = Budget(TokenRates(1e6, 1e6, 1e6), max_cost_usd, spent_usd=0.0)
    return BudgetGate(budget, max_output_tokens=10), budget


def answer(prompt: int = 8, completion: int = 2) -> Answer:
    return Answer("text", "stop", "m", Usage(prompt_tokens=prompt, completion_tokens=completion))


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, timeout=10))


def test_a_request_waits_for_what_those_in_flight_give_back() -> None:
    async def scenario() -> None:
        shared, budget = purse(30)
        first = await shared.acquire(BODY)
        assert first == HELD
        second = asyncio.create_task(shared.acquire(BODY))
        await asyncio.sleep(0)
        assert not second.done()
        shared.settle(BODY, first, answer())
        assert await second == HELD
        assert budget.spent_usd == 10

    run(scenario())


def test_the_budget_is_used_up_when_nobody_gives_enough_back() -> None:
    async def scenario() -> None:
        shared, _ = purse(30)
        first = await shared.acquire(BODY)
        assert first is not None
        waiting = [asyncio.create_task(shared.acquire(BODY)) for _ in range(3)]
        await asyncio.sleep(0)
        shared.settle(BODY, first, answer(completion=12))
        assert await asyncio.gather(*waiting) == [None, None, None]

    run(scenario())


def test_a_refused_attempt_costs_nothing_and_a_lost_one_all_that_was_held() -> None:
    async def scenario() -> None:
        shared, budget = purse(100)
        outcomes = [
            AttemptError(kind=ErrorClass.WAIT, type="rate_limit"),
            AttemptError(kind=ErrorClass.RETRY, type="timeout", maybe_paid=True),
            AttemptError(kind=ErrorClass.ROW, type="refusal", maybe_paid=True, usage=Usage(8, 0, 1)),
            None,
        ]
        for outcome in outcomes:
            held = await shared.acquire(BODY)
            assert held is not None
            shared.settle(BODY, held, outcome)
        assert budget.spent_usd == 0 + HELD + 9 + HELD
        assert budget.in_flight_usd == 0

    run(scenario())


def test_an_answer_without_a_count_costs_all_that_was_held() -> None:
    async def scenario() -> None:
        shared, budget = purse(100)
        held = await shared.acquire(BODY)
        assert held is not None
        shared.settle(BODY, held, Answer("text", "stop", "m", Usage()))
        assert budget.spent_usd == HELD

    run(scenario())


def test_prompts_are_held_by_what_the_server_counted_before() -> None:
    async def scenario() -> None:
        shared, _ = purse(1000)
        held = await shared.acquire(BODY)
        assert held is not None
        shared.settle(BODY, held, answer(prompt=16))
        assert await shared.acquire(BODY) == 16 * 1.25 + 10

    run(scenario())


def test_who_was_cancelled_while_waiting_is_passed_over() -> None:
    async def scenario() -> None:
        shared, _ = purse(30)
        first = await shared.acquire(BODY)
        assert first is not None
        cancelled, patient = (asyncio.create_task(shared.acquire(BODY)) for _ in range(2))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
        shared.settle(BODY, first, AttemptError(kind=ErrorClass.WAIT, type="rate_limit"))
        assert await patient == HELD

    run(scenario())
