"""The legacy tool's seeded choice of training rows.

Owns the order in which NumPy's legacy generator (MT19937, `RandomState(seed).permutation`) puts numbers, so
that the split of a classification is the same without NumPy. Facts: numpy/random/mtrand, unchanged by its
stream guarantee (NEP 19).
"""

from __future__ import annotations

import random

_WORDS = 624
_MASK = 0xFFFFFFFF


def permutation(count: int, seed: int) -> list[int]:
    """The numbers 0 to count - 1 in the order of `numpy.random.RandomState(seed).permutation(count)`."""
    generator = random.Random()  # noqa: S311 - a reproducible split, not a secret
    generator.setstate((3, (*_initial_state(seed), _WORDS), None))
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        bits = last.bit_length()
        while (chosen := generator.getrandbits(32) & ((1 << bits) - 1)) > last:
            pass
        order[last], order[chosen] = order[chosen], order[last]
    return order


def _initial_state(seed: int) -> list[int]:
    """MT19937's state for a seed of one word (Matsumoto and Nishimura, 2002)."""
    state = [seed & _MASK]
    for place in range(1, _WORDS):
        before = state[-1]
        state.append((1812433253 * (before ^ (before >> 30)) + place) & _MASK)
    return state
