"""What rows cost, in every way in which they can be bought.

Owns the multiplication. Does not know where prices come from.
"""

from __future__ import annotations

from asyncgen.generate.plan.request_tokens import RequestTokens
from asyncgen.generate.plan.span import Span
from asyncgen.prices import BATCH, FLEX, STANDARD, Price
from asyncgen.providers import Profile
from asyncgen.records import Usage


def ways_to_buy(profile: Profile, tier: str) -> tuple[str, ...]:
    """The tiers to show: what the job asks for, and what else the provider sells.

    Args:
        profile: who answers.
        tier: of the job's own parameters.
    """
    offered = [(FLEX, profile.flex), (BATCH, profile.batch)]
    return (tier, *(each for each, sold in offered if sold and each != tier))


def cost_of_rows(rows: int, tokens: RequestTokens, price: Price | None, tier: str) -> Span | None:
    """USD for so many rows; None where the price, or that of the tier, is not known."""
    if price is None or (tier not in price.tiers and tier != STANDARD):
        return None
    return Span(
        rows * _cost_usd(price, tier, tokens.prompt.low, tokens.completion.low),
        rows * _cost_usd(price, tier, tokens.prompt.high, tokens.completion.high),
    )


def _cost_usd(price: Price, tier: str, prompt: float, completion: float) -> float:
    return price.cost_usd(Usage(prompt_tokens=round(prompt), completion_tokens=round(completion)), tier)
