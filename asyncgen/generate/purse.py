"""The budget of a run, for requests that share it.

Owns the waiting: what is in flight holds the most that it may cost, and gives back what it did not use. Does not know
requests beyond their size.
"""

from __future__ import annotations

import asyncio
from collections import deque

from asyncgen.generate.completer import Answer, AttemptError
from asyncgen.generate.spend import Budget
from asyncgen.records import Usage
from asyncgen.tokens import TokenEstimate, estimate_body


class Purse:
    """Money for attempts.

    Args:
        budget: what may be spent.
        max_output_tokens: what an answer may take, where the parameters bound it.
    """

    def __init__(self, budget: Budget, max_output_tokens: int | None) -> None:
        self._budget = budget
        self._max_output_tokens = max_output_tokens
        self._estimate = TokenEstimate()
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self, body: bytes) -> float | None:
        """Hold the most that one attempt may cost, waiting for those in flight where they may leave enough.

        Returns:
            USD held, to be given to `settle`; None when the budget does not cover it and nobody will give any back.
        """
        while (held_usd := self._budget.hold(self._prompt_tokens(body), self._max_output_tokens)) is None:
            if not self._taken:
                return None
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        self._taken += 1
        return held_usd

    def settle(self, body: bytes, held_usd: float, outcome: Answer | AttemptError | None) -> None:
        """Give back what an attempt did not use.

        Args:
            body: of the attempt.
            held_usd: what `take` gave.
            outcome: what it came to; None for one that was broken off.
        """
        self._taken -= 1
        if outcome is not None and outcome.usage != Usage():
            self._budget.settle(held_usd, outcome.usage)
            self._estimate.observe(estimate_body(body), outcome.usage.prompt_tokens)
        elif isinstance(outcome, AttemptError) and not outcome.maybe_paid:
            self._budget.release(held_usd)
        else:
            self._budget.count_as_spent(held_usd)  # broken off, lost on the way, or answered without a count
        self._wake()

    def give_back(self, held_usd: float) -> None:
        """Nothing was sent for what `take` gave."""
        self._taken -= 1
        self._budget.release(held_usd)
        self._wake()

    def _wake(self) -> None:
        while self._waiting:  # each looks for itself whether there is enough now
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)

    def _prompt_tokens(self, body: bytes) -> int:
        return self._estimate.corrected(estimate_body(body))
