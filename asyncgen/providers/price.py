"""The price of a model in USD per million tokens, by tier, and the cost of a usage.

Where rates come from is left to `prices`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncgen.run.records import Usage, sum_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date


STANDARD = "standard"
BATCH = "batch"
FLEX = "flex"
_SERVICE_TIERS = {"flex": FLEX, "priority": "priority", "fast": "priority"}
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class TokenRates:
    """Prices in USD per million tokens.

    Some models charge more for writing to the cache. The usage that is kept does not show those tokens, so they count
    as ordinary input.

    Attributes:
        input: prompt tokens that were not cached.
        cached: prompt tokens read from the provider's cache.
        output: completion tokens.
        reasoning: hidden reasoning tokens, a part of the completion's; None for the price of output.
        steps: rates for long prompts, ascending, each with the number of prompt tokens above which it applies.
    """

    input: float
    cached: float
    output: float
    reasoning: float | None = None
    steps: tuple[tuple[int, TokenRates], ...] = ()

    def cost_usd(self, usage: Usage) -> float:
        """Cost of one call.

        Args:
            usage: its tokens; impossible figures (negative, parts above wholes) are clipped.

        Returns:
            USD.
        """
        rates = self._for_prompt(usage.prompt_tokens)
        prompt, completion = max(usage.prompt_tokens, 0), max(usage.completion_tokens, 0)
        cached = min(max(usage.cached_tokens, 0), prompt)
        reasoning = min(max(usage.reasoning_tokens, 0), completion)
        reasoning_rate = rates.output if rates.reasoning is None else rates.reasoning
        return (
            (prompt - cached) * rates.input
            + cached * rates.cached
            + (completion - reasoning) * rates.output
            + reasoning * reasoning_rate
        ) / _MILLION

    def cost_of_all_usd(self, usages: Sequence[Usage]) -> float:
        """Cost of many calls, faster than one by one if no rate depends on the single call.

        Args:
            usages: the tokens of each call.

        Returns:
            USD.
        """
        is_sum_enough = not self.steps and self.reasoning is None and all(map(_is_plain, usages))
        return self.cost_usd(sum_of(usages)) if is_sum_enough else sum(map(self.cost_usd, usages))

    def _for_prompt(self, tokens: int) -> TokenRates:
        rates = self
        for above, step in self.steps:
            if tokens > above:
                rates = step
        return rates


def _is_plain(usage: Usage) -> bool:
    """Whether nothing has to be clipped."""
    return 0 <= usage.cached_tokens <= usage.prompt_tokens and usage.completion_tokens >= 0


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs at a provider.

    Attributes:
        tiers: rates by tier; "standard" is always present.
        source: where the rates are from, for the user.
        as_of: day of the rates; None if the source has no date.
    """

    tiers: Mapping[str, TokenRates]
    source: str
    as_of: date | None

    def rates(self, tier: str = STANDARD) -> TokenRates:
        """Look up the rates of a tier.

        Args:
            tier: "standard", "batch", "flex" or "priority".

        Returns:
            Its rates; the standard ones if the source has none for it, so that estimates are too high rather than too
            low.
        """
        return self.tiers.get(tier, self.tiers[STANDARD])

    def cost_usd(self, usage: Usage, tier: str = STANDARD) -> float:
        """Cost of one call.

        Args:
            usage: its tokens.
            tier: as for `rates`.

        Returns:
            USD.
        """
        return self.rates(tier).cost_usd(usage)

    def cost_of_all_usd(self, usages: Sequence[Usage], tier: str = STANDARD) -> float:
        """Cost of many calls.

        Args:
            usages: the tokens of each call.
            tier: as for `rates`.

        Returns:
            USD.
        """
        return self.rates(tier).cost_of_all_usd(usages)


FREE = Price({STANDARD: TokenRates(0.0, 0.0, 0.0), BATCH: TokenRates(0.0, 0.0, 0.0)}, "this machine", None)


def tier_of(parameters: Mapping[str, object]) -> str:
    """Return the price tier that a request's `service_tier` asks for.

    Args:
        parameters: of the request.
    """
    return _SERVICE_TIERS.get(str(parameters.get("service_tier")), STANDARD)
