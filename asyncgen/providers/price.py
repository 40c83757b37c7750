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
    """USD for a million tokens.

    Tokens written to a cache, which some models charge at a quarter more, are not told apart by the usage that
    we keep, and count as ordinary input.

    Attributes:
        input: prompt tokens that were not cached.
        cached: prompt tokens read from the provider's cache.
        output: completion tokens.
        reasoning: hidden reasoning tokens, a part of the completion's; None: as output.
        steps: rates for long prompts, ascending: those of the highest step that the prompt's tokens exceed.
    """

    input: float
    cached: float
    output: float
    reasoning: float | None = None
    steps: tuple[tuple[int, TokenRates], ...] = ()

    def cost_usd(self, usage: Usage) -> float:
        """USD for the tokens of one call; figures that cannot be (negative, parts over wholes) are cut."""
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
        """USD for the tokens of many calls; much quicker than one by one, where their sum says as much."""
        is_sum_enough = not self.steps and self.reasoning is None and all(map(_is_plain, usages))
        return self.cost_usd(sum_of(usages)) if is_sum_enough else sum(map(self.cost_usd, usages))

    def _for_prompt(self, tokens: int) -> TokenRates:
        rates = self
        for above, step in self.steps:
            if tokens > above:
                rates = step
        return rates


def _is_plain(usage: Usage) -> bool:
    """True if nothing has to be cut."""
    return 0 <= usage.cached_tokens <= usage.prompt_tokens and usage.completion_tokens >= 0


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs at a provider.

    Attributes:
        tiers: rates by tier; "standard" is always there.
        source: where the rates were found, in words for the user.
        as_of: the day of the rates, as far as the source tells it.
    """

    tiers: Mapping[str, TokenRates]
    source: str
    as_of: date | None

    def rates(self, tier: str = STANDARD) -> TokenRates:
        """The tier's rates, or the standard ones where the source has none: too much rather than too little."""
        return self.tiers.get(tier, self.tiers[STANDARD])

    def cost_usd(self, usage: Usage, tier: str = STANDARD) -> float:
        """USD for the tokens of one call."""
        return self.rates(tier).cost_usd(usage)

    def cost_of_all_usd(self, usages: Sequence[Usage], tier: str = STANDARD) -> float:
        """USD for the tokens of many calls."""
        return self.rates(tier).cost_of_all_usd(usages)


FREE = Price({STANDARD: TokenRates(0.0, 0.0, 0.0), BATCH: TokenRates(0.0, 0.0, 0.0)}, "this machine", None)


def tier_of(parameters: Mapping[str, object]) -> str:
    """The tier that a request's `service_tier` asks for."""
    return _SERVICE_TIERS.get(str(parameters.get("service_tier")), STANDARD)
