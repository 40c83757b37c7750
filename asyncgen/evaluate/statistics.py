"""Confidence intervals and tests that are valid for few rows, with the standard library alone.

A unit is one prompt that every contestant was asked; a cluster is a set of units whose answers may be correlated, such
as those of one held-out city. Models, answers and wording are left to the callers.

Sources: Wilson 1927 (score interval); Newcombe, Statistics in Medicine 17 (1998) 2635, method 10 (paired difference);
Holm 1979; Connor 1987 (sample size of McNemar's test); Hunter 2004 (Bradley-Terry by MM); Dubois et al. 2024, arXiv
2404.04475 (length-controlled preference).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

CONFIDENCE = 0.95
POWER = 0.8
DRAWS = 10_000
FEWEST_CLUSTERS = 10  # below it an interval over clusters says nothing about other ones
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
_Z_POWER = NormalDist().inv_cdf(POWER)
_RIDGE = 1e-3
_STEPS = 100
_CLOSE = 1e-10


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedCounts:
    """Counts of pass and fail of two contestants, A and B, on the same units."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def units(self) -> int:
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def difference(self) -> float:
        """The share of A minus that of B; 0 without units."""
        return (self.only_a - self.only_b) / self.units if self.units else 0.0

    @property
    def discordant(self) -> float:
        """The share of units on which they differ."""
        return (self.only_a + self.only_b) / self.units if self.units else 0.0


def paired_counts(a: Sequence[bool], b: Sequence[bool]) -> PairedCounts:
    """Count the four cases of two contestants on the same units, in the same order."""
    cases = list(zip(a, b, strict=True))
    return PairedCounts(*(cases.count(case) for case in ((True, True), (True, False), (False, True), (False, False))))


def wilson(successes: float, units: int) -> Interval:
    """The share of successes with Wilson's score interval; 0 to 1 without units."""
    if not units:
        return Interval(0.0, 0.0, 1.0)
    share, square = successes / units, _Z * _Z
    centre = (share + square / (2 * units)) / (1 + square / units)
    half = _Z * math.sqrt(share * (1 - share) / units + square / (4 * units * units)) / (1 + square / units)
    # At a share of 0 or 1 the bound is that share; rounding must not put it outside.
    return Interval(share, 0.0 if share == 0 else max(centre - half, 0.0), 1.0 if share == 1 else min(centre + half, 1))


def newcombe(counts: PairedCounts) -> Interval:
    """The difference of two paired shares, A less B, with Newcombe's interval (method 10)."""
    if not counts.units:
        return Interval(0.0, -1.0, 1.0)
    a = wilson(counts.both + counts.only_a, counts.units)
    b = wilson(counts.both + counts.only_b, counts.units)
    phi, difference = _phi(counts), counts.difference
    down = _distance(a.value - a.low, b.high - b.value, phi)
    up = _distance(a.high - a.value, b.value - b.low, phi)
    return Interval(difference, max(difference - down, -1.0), min(difference + up, 1.0))


def _distance(first: float, second: float, phi: float) -> float:
    return math.sqrt(max(first**2 - 2 * phi * first * second + second**2, 0.0))


def _phi(counts: PairedCounts) -> float:
    """The phi coefficient of two contestants, with Newcombe's continuity correction."""
    a, b, c, d = counts.both, counts.only_a, counts.only_b, counts.neither
    root = math.sqrt((a + b) * (c + d) * (a + c) * (b + d))
    if not root:
        return 0.0
    product = a * d - b * c
    return (max(product - counts.units / 2, 0.0) if product > 0 else product) / root


def sign_test(wins: int, losses: int) -> float:
    """The two-sided p value of so many wins and losses if both were equally likely; on pairs it is McNemar's, exact."""
    trials = wins + losses
    tail = sum(math.comb(trials, count) for count in range(min(wins, losses) + 1))
    return min(2 * tail / (1 << trials), 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values corrected for how many there are, in their order (Holm's step-down)."""
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min((len(p_values) - rank) * p_values[place], 1.0))
        corrected[place] = highest
    return corrected


def bootstrap(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    seed: int,
    draws: int = DRAWS,
    statistic: Callable[[Sequence[float]], float] | None = None,
) -> Interval:
    """A figure of the values with its percentile interval, whole clusters drawn with replacement.

    Args:
        values: one for each unit.
        clusters: of each unit; units of one cluster are drawn together.
        seed: decides the draws.
        draws: how many.
        statistic: of some values; None for their mean, which is quicker.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("there is nothing to draw from")
    members: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        members.setdefault(cluster, []).append(value)
    groups = list(members.values())
    random = Random(seed)  # noqa: S311 - draws are to be the same each time
    if statistic is None:
        sums = [(sum(group), len(group)) for group in groups]
        drawn = sorted(_mean_of(random.choices(sums, k=len(sums))) for _ in range(draws))
    else:
        drawn = sorted(
            statistic([value for group in random.choices(groups, k=len(groups)) for value in group])
            for _ in range(draws)
        )
    tail = (1 - CONFIDENCE) / 2
    value = fmean(values) if statistic is None else statistic(values)
    return Interval(value, _quantile(drawn, tail), _quantile(drawn, 1 - tail))


def _mean_of(sums: Sequence[tuple[float, int]]) -> float:
    return sum(total for total, _ in sums) / sum(count for _, count in sums)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Interpolate between the two nearest of ordered values."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies; `math.nan` without values."""
    return _quantile(sorted(values), share) if values else math.nan


def units_needed(discordant: float, difference: float) -> int | None:
    """Estimate the number of units that show a difference with a power of 0.8, rounded up to tens.

    Args:
        discordant: share of units on which the two differ.
        difference: of the two shares, to be detected.

    Returns:
        The number; None if there is no difference to detect.
    """
    if not difference:
        return None
    discordant = max(discordant, abs(difference))
    spread = max(discordant - difference**2, 0.0)
    units = (_Z + _Z_POWER) ** 2 * spread / difference**2
    return max(math.ceil(units / 10 - 1e-9), 1) * 10


def length_controlled(scores: Sequence[float], lengths: Sequence[float]) -> float:
    """How often A would be preferred if its answers were as long as those of B.

    A logistic curve is laid through the scores over the hyperbolic tangent of the standardised difference of lengths
    (Newton's method, with a small ridge); the result is its value at no difference.

    Args:
        scores: of each pair: 1 where A won, 0 where B did, 0.5 for a tie.
        lengths: of each pair: length of A less length of B.
    """
    spread = math.sqrt(fmean([length**2 for length in lengths])) if lengths else 0.0
    terms = [math.tanh(length / spread) if spread else 0.0 for length in lengths]
    base = slope = 0.0
    for _ in range(_STEPS):
        chances = [_logistic(base + slope * term) for term in terms]
        errors = [score - chance for score, chance in zip(scores, chances, strict=True)]
        weights = [chance * (1 - chance) for chance in chances]
        toward = sum(errors) - _RIDGE * base
        toward_slope = sum(e * t for e, t in zip(errors, terms, strict=True)) - _RIDGE * slope
        a = sum(weights) + _RIDGE
        b = sum(w * t for w, t in zip(weights, terms, strict=True))
        c = sum(w * t * t for w, t in zip(weights, terms, strict=True)) + _RIDGE
        root = a * c - b * b
        step, step_slope = (c * toward - b * toward_slope) / root, (a * toward_slope - b * toward) / root
        base, slope = base + step, slope + step_slope
        if abs(step) + abs(step_slope) < _CLOSE:
            break
    return _logistic(base)


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def bradley_terry(wins: Mapping[tuple[str, str], float], names: Sequence[str]) -> dict[str, float]:
    """Estimate the strength of each contestant: A beats B with a probability of A / (A + B). Their mean is 1.

    Args:
        wins: (winner, loser) to number; a tie counts one half each way.
        names: of all contestants. One more tie with every other is added to each, so that a contestant that never lost
            has a finite strength.

    Returns:
        Name to strength.
    """
    counted = {
        (one, other): wins.get((one, other), 0.0) + 0.5 for one in names for other in names if one != other
    }  # fmt: skip
    strengths = dict.fromkeys(names, 1.0)
    for _ in range(10 * _STEPS):
        new = {
            name: sum(counted[name, other] for other in names if other != name)
            / sum(
                (counted[name, other] + counted[other, name]) / (strengths[name] + strengths[other])
                for other in names
                if other != name
            )
            for name in names
        }
        total = sum(new.values())
        new = {name: strength * len(names) / total for name, strength in new.items()}
        moved = max(abs(new[name] - strengths[name]) for name in names)
        strengths = new
        if moved < _CLOSE:
            break
    return strengths


def agreement(one: Sequence[Hashable], other: Sequence[Hashable]) -> float | None:
    """Cohen's kappa of two raters of the same units; None if agreement by chance is certain."""
    if not one:
        return None
    seen = fmean([a == b for a, b in zip(one, other, strict=True)])
    labels = set(one) | set(other)
    by_chance = sum(one.count(label) * other.count(label) for label in labels) / len(one) ** 2
    return None if by_chance == 1 else (seen - by_chance) / (1 - by_chance)
