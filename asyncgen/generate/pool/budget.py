"""The budget of a run in USD, with requests in flight counted.

A request reserves the most that it may cost, waits while that does not fit, and returns what it did not use.
Prices are given; the total that earlier invocations spent is the start value.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import UNSET

from asyncgen.errors import QuotaError, UsageError
from asyncgen.generate.http.completer import Answer, AttemptError
from asyncgen.providers.tokens import TokenEstimate, estimate_body
from asyncgen.run.records import Usage

if TYPE_CHECKING:
    from asyncgen.providers.price import Price, TokenRates

_PROMPT_MARGIN = 1.25  # estimates of prompts may be this much too low before answers correct them
_UNBOUNDED_OUTPUT = 1000


@dataclass(slots=True)
class Budget:
    """A budget in USD over all invocations of a run.

    A cost that the provider reports takes precedence over the rates. Without rates nothing else is known: the first
    request then goes alone, and the dearest answer so far is the estimate for the next one.

    Attributes:
        rates: of the model and the way of purchase; None for an unknown price.
        max_cost_usd: never exceeded.
        spent_usd: charged for certain, or so likely that it has to be counted.
        in_flight_usd: held for requests without an outcome, open batches included.
        unanswered_usd: the part of `spent_usd` that was held for attempts without an answer.
        must_know: without rates, an answer of unknown cost ends the run.
        is_blind: without rates, an answer of unknown cost arrived.
    """

    rates: TokenRates | None
    max_cost_usd: float
    spent_usd: float
    in_flight_usd: float = 0.0
    unanswered_usd: float = 0.0
    must_know: bool = False
    is_blind: bool = False
    _largest_output: int = 0
    _dearest_usd: float | None = None

    def hold(self, prompt_tokens: int, max_output_tokens: int | None) -> float | None:
        """Reserve the price of one attempt.

        Args:
            prompt_tokens: estimated.
            max_output_tokens: maximum length of the answer. If unknown, the largest answer so far is used; a larger one
                may then exceed the budget.

        Returns:
            USD reserved, for `settle`, `release` or `count_as_spent`; None if that might exceed the budget.
        """
        held_usd = self.most_usd(prompt_tokens, max_output_tokens)
        if held_usd is None or self.spent_usd + self.in_flight_usd + held_usd > self.max_cost_usd:
            return None
        self.in_flight_usd += held_usd
        return held_usd

    def most_usd(self, prompt_tokens: int, max_output_tokens: int | None) -> float | None:
        """The most that one attempt may cost, as far as is known; None where nothing may be sent for that."""
        if self.rates is not None:
            output = max(self._largest_output, _UNBOUNDED_OUTPUT) if max_output_tokens is None else max_output_tokens
            most = Usage(prompt_tokens=round(prompt_tokens * _PROMPT_MARGIN), completion_tokens=output)
            return max(self.rates.cost_usd(most), self._dearest_usd or 0.0)
        if self.is_blind:
            return None if self.must_know else 0.0
        left_usd = self.max_cost_usd - self.spent_usd - self.in_flight_usd
        if self._dearest_usd is None:
            return left_usd if left_usd > 0 else None
        return self._dearest_usd if left_usd > 0 else None

    @property
    def highest_usd(self) -> float:
        """What the dearest answer cost of those whose cost was told."""
        return self._dearest_usd or 0.0

    def settle(self, held_usd: float, usage: Usage) -> None:
        """Replace a reservation by what `usage` cost."""
        self.release(held_usd)
        self._largest_output = max(self._largest_output, usage.completion_tokens)
        if usage.cost_usd is not UNSET:
            self.spent_usd += usage.cost_usd
            self._dearest_usd = max(self._dearest_usd or 0.0, usage.cost_usd)
        elif self.rates is not None:
            self.spent_usd += self.rates.cost_usd(usage)
        else:
            self.is_blind = True

    def release(self, held_usd: float) -> None:
        """Return a reservation that was not charged."""
        # Sums of floats drift below zero.
        self.in_flight_usd = max(self.in_flight_usd - held_usd, 0.0)

    def used_up(self) -> QuotaError:
        """The error that explains why no other request can be paid for."""
        if self.is_blind and self.must_know:
            return QuotaError(
                "the server does not report the cost of answers, and the price of this model is not known",
                help_text="set its price in prices.toml beside the job file, or leave --max-cost out",
                code="no_price",
            )
        return budget_used_up()

    def count_as_spent(self, held_usd: float) -> None:
        """Count a reservation as spent: it may have been charged, and the cost will never be known.

        Without rates it is not an estimate as long as no cost was reported.
        """
        self.release(held_usd)
        if self.rates is None:
            held_usd = min(held_usd, self._dearest_usd or 0.0)
        self.spent_usd += held_usd
        self.unanswered_usd += held_usd


def open_budget(
    price: Price | None, tier: str, max_cost_usd: float | None, *, spent_usd: float, in_flight_usd: float = 0.0
) -> Budget | None:
    """The budget of a run; None for no limit.

    Args:
        price: of the model that answers.
        tier: the way of purchase.
        max_cost_usd: from the job file or a flag.
        spent_usd: by earlier invocations.
        in_flight_usd: reserved for batches that are still open.

    Raises:
        UsageError: a limit in USD is impossible without a price.
    """
    if max_cost_usd is None:
        return None
    if price is None:
        raise UsageError(
            f"max_cost = {max_cost_usd:g} cannot be enforced: the price of this model is not known",
            help_text="set its price in prices.toml beside the job file, or remove max_cost from [limits]; with "
            "--yes the run continues as long as the server reports the cost of answers",
            code="no_price",
        )
    return Budget(price.rates(tier), max_cost_usd, spent_usd, in_flight_usd)


def budget_used_up() -> QuotaError:
    """The error of a run whose budget does not cover another request."""
    return QuotaError(
        "the budget does not cover another request",
        help_text="raise max_cost under [limits], or --max-cost; run the same command to continue",
        code="budget",
    )


class BudgetGate:
    """Makes requests wait for budget that others may return.

    Args:
        budget: of the run.
        max_output_tokens: maximum length of an answer, if the parameters limit it.
    """

    def __init__(self, budget: Budget, max_output_tokens: int | None) -> None:
        self.budget = budget
        self._max_output_tokens = max_output_tokens
        self._estimate = TokenEstimate()
        self._held = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self, body: bytes) -> float | None:
        """Reserve the most that one attempt may cost, waiting while requests in flight may return enough.

        Returns:
            USD reserved, for `settle` or `release`; None if the budget is used up.
        """
        while (held_usd := self.budget.hold(self._prompt_tokens(body), self._max_output_tokens)) is None:
            if not self._held:
                return None
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        self._held += 1
        return held_usd

    def settle(self, body: bytes, held_usd: float, outcome: Answer | AttemptError | None) -> None:
        """Return what an attempt did not use.

        Args:
            body: of the request.
            held_usd: from `acquire`.
            outcome: None for a request cancelled in flight.
        """
        self._held -= 1
        if outcome is not None and (outcome.usage != Usage() or self._is_untold(outcome)):
            self.budget.settle(held_usd, outcome.usage)
            self._estimate.observe(estimate_body(body), outcome.usage.prompt_tokens)
        elif isinstance(outcome, AttemptError) and not outcome.maybe_paid:
            self.budget.release(held_usd)
        else:
            self.budget.count_as_spent(held_usd)  # cancelled, lost, or answered without a count
        self._wake()

    def _is_untold(self, outcome: Answer | AttemptError) -> bool:
        """True for an answer of unknown cost."""
        return self.budget.rates is None and isinstance(outcome, Answer)

    def release(self, held_usd: float) -> None:
        """Return the USD of a request that was not sent."""
        self._held -= 1
        self.budget.release(held_usd)
        self._wake()

    def _wake(self) -> None:
        while self._waiting:  # each checks again whether the budget suffices
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)

    def price_of(self, body: bytes) -> float:
        """USD that an attempt may cost at most, as far as is known."""
        if self.budget.rates is None:
            return self.budget.highest_usd
        return self.budget.most_usd(self._prompt_tokens(body), self._max_output_tokens) or 0.0

    def _prompt_tokens(self, body: bytes) -> int:
        return self._estimate.corrected(estimate_body(body))
