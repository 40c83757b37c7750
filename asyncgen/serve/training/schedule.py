"""The learning rate of each step: up quickly, then down to zero.

Owns the curve. Does not know what a step is.
"""

from __future__ import annotations

WARM_UP = 0.1  # share of all steps, but no more than:
LONGEST_WARM_UP = 20


def learning_rate(step: int, total_steps: int, peak: float) -> float:
    """The rate of a step, counted from 1: a straight line up to the peak, and one down that ends short of zero."""
    warm_up = min(LONGEST_WARM_UP, max(1, round(WARM_UP * total_steps)))
    if step <= warm_up:
        return peak * step / warm_up
    return peak * (total_steps + 1 - step) / (total_steps + 1 - warm_up)
