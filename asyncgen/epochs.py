"""How often a training goes over its samples when nobody says, by their number: the fewer they are, the more often.

Owns the two rules, OpenAI's and that of the trainer on this machine: what is foretold and what is done is one
function. Does not know who trains.
"""

from __future__ import annotations

_USUAL = 3
# Of samples seen, each counted as often as it is gone through: with fewer than the first number there are more epochs
# than usual, but not more than the last one; with more than the second there are fewer.
_FEWEST, _MOST, _MOST_EPOCHS = 100, 25_000, 25
_FEWEST_LOCAL, _MOST_LOCAL, _MOST_EPOCHS_LOCAL = 300, 6000, 10  # a sample takes about a quarter of a second


def usual_epochs(samples: int) -> int:
    """The rule of OpenAI's data preparation notebook."""
    if samples * _USUAL < _FEWEST:
        return min(_MOST_EPOCHS, _FEWEST // max(samples, 1))
    return min(_USUAL, max(1, _MOST // samples))


def local_epochs(samples: int) -> int:
    """The rule of the trainer on this machine; it rounds up where the other rounds down."""
    if samples * _USUAL < _FEWEST_LOCAL:
        return min(_MOST_EPOCHS_LOCAL, -(-_FEWEST_LOCAL // max(samples, 1)))
    return min(_USUAL, max(1, _MOST_LOCAL // samples))
