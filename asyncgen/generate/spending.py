"""The cost of a generation before it starts: way of purchase, estimate and budget.

Asks for consent before an expensive run. Sending is left to the engine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncgen.errors import UsageError
from asyncgen.generate.pool.budget import Budget, open_budget
from asyncgen.providers.choose import EndpointFlags, named_address
from asyncgen.providers.endpoint import is_loopback
from asyncgen.providers.price import BATCH, STANDARD, Price, tier_of
from asyncgen.providers.profiles import PROFILES, Profile, ProviderChoice
from asyncgen.providers.user_files import load_price_list
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncgen.generate.observer import Observer
    from asyncgen.generate.plan.request_tokens import Span
    from asyncgen.job.opened import OpenedJob
    from asyncgen.run.records import Usage
    from asyncgen.run.state import RunState, Spend

_ASK_ABOVE_USD = 1.0


@dataclass(frozen=True, slots=True)
class Spending:
    """The way of purchase of a generation, and its price.

    Attributes:
        price: of the model that answers; None where it is not known.
        tier: of requests sent online.
        in_batch: this invocation sends them in batches.
        is_own: the server is on this machine and charges nothing.
    """

    price: Price | None
    tier: str
    in_batch: bool
    is_own: bool = False

    def cost_of(self, usages: Sequence[Usage], in_batch: bool) -> float | None:
        """USD for the usages of rows, bought online or in a batch; None for an unknown price."""
        return None if self.price is None else self.price.cost_of_all_usd(usages, BATCH if in_batch else self.tier)

    def estimate(self, opened: OpenedJob, rows: int) -> Span | None:
        """Estimated USD for `rows` rows; None for an unknown price."""
        if self.price is None or not rows:
            return None
        from asyncgen.generate.plan.costs import cost_of_rows  # noqa: PLC0415 - servers of one's own have no price
        from asyncgen.generate.plan.request_tokens import RunMeasurements, tokens_of_a_request  # noqa: PLC0415

        tokens = tokens_of_a_request(opened.job, opened.grid, RunMeasurements())
        tier = BATCH if self.in_batch else self.tier
        return cost_of_rows(rows, tokens, self.price, tier) or cost_of_rows(rows, tokens, self.price, STANDARD)

    def budget(
        self, max_cost_usd: float | None, spend: Spend, state: RunState, observer: Observer, *, is_demanded: bool
    ) -> Budget | None:
        """The budget of a run, with open batches counted.

        Args:
            observer: is warned of a limit that cannot be kept.
            max_cost_usd: from the flag or the job file; None for no limit.
            spend: of earlier invocations.
            state: of the run.
            observer: is asked.
            is_demanded: the flag was given.

        Raises:
            UsageError: the limit cannot be kept without a price, and the user did not agree to go on.
        """
        agrees = observer.agrees_to_all and not self.in_batch
        if self.price is None and max_cost_usd is not None and (agrees or not is_demanded):
            unless = "" if self.in_batch else ", unless the server reports the cost of answers"
            what = f"the price of this model is not known, so max_cost = {max_cost_usd:g} cannot stop the run{unless}"
            if self.is_own:
                observer.say(f"warning: {what}")
            else:
                observer.agree("Continue without that limit?", why=what, notice=f"warning: {what}")
            spent_usd = spend.cost_usd + spend.unanswered_usd
            return None if self.in_batch else Budget(None, max_cost_usd, spent_usd, must_know=is_demanded)
        in_flight_usd = sum(batch.held_usd for batch in state.batches if not batch.collected)
        tier = BATCH if self.in_batch else self.tier
        spent_usd = spend.cost_usd + spend.unanswered_usd
        return open_budget(self.price, tier, max_cost_usd, spent_usd=spent_usd, in_flight_usd=in_flight_usd)


def spending_of(opened: OpenedJob, generation: ProviderChoice, where: EndpointFlags, *, in_batch: bool) -> Spending:
    """Find price and price tier of a job's rows.

    Args:
        opened: the job.
        generation: the provider that answers.
        where: the flags.
        in_batch: use the Batch API's price.

    Returns:
        Price and tier.

    Raises:
        UsageError: a price file of the user is invalid.
    """
    prices = load_price_list(opened.file.path and opened.file.folder, os.environ)
    address = named_address(generation.profile, where)
    price = prices.price(generation.profile.name, address, opened.model)
    is_own = address is not None and is_loopback(address)
    return Spending(price, tier_of(opened.grid.parameters), in_batch, is_own)


def consent_to_cost(estimate: Span | None, rows: int, observer: Observer) -> None:
    """Ask for consent if rows may cost more than 1 USD.

    Args:
        estimate: USD; None if the price is unknown, and nothing is asked.
        rows: number of rows.
        observer: is asked.

    Raises:
        UsageError: nobody can be asked, or the answer is no.
    """
    if estimate is not None and estimate.high > _ASK_ABOVE_USD:
        what = f"{counted(rows, 'row')}: estimated cost {estimate.low:,.2f} to {estimate.high:,.2f} USD"
        observer.agree(f"{what}. Continue?", why=what)


def refuse_without_batches(profile: Profile) -> None:
    """Check that the provider has the Batch API.

    Raises:
        UsageError: it has not.
    """
    if not profile.batch:
        able = ", ".join(name for name, each in PROFILES.items() if each.batch)
        raise UsageError(
            f"{profile.title} has no Batch API", help_text=f"leave --batch out, or choose one of {able} with --provider"
        )
