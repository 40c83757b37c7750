"""How many requests may be in flight: found out, within a ceiling.

Owns the rule: quick growth at the start, unless a known rate makes it needless; then one more after a round of
successes in which the limit was used up (where a rate is known, one for each), and a cut when the server wants less, at
most once for the requests that were sent before it. Pure: it is told of starts and ends, and waits for nothing.
"""

from __future__ import annotations

_FIRST = 10
_CUT = 0.7


class ConcurrencyLimit:
    """The number of places.

    Args:
        ceiling: never more than this.

    Attributes:
        limit: places that there are.
    """

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self.limit = min(ceiling, _FIRST)
        self._exact = float(self.limit)
        self._grows_quickly = True
        self._is_paced = False
        self._cut_at = 0

    def succeeded(self, in_flight: int) -> None:
        """An answer came, while so many requests were in flight, its own included."""
        if self.limit >= self._ceiling:
            return
        is_start = self._grows_quickly and not self._cut_at
        if is_start or in_flight >= self.limit:
            self._set(min(self._exact + (1.0 if self._grows_quickly else 1.0 / self._exact), float(self._ceiling)))

    def open_up(self) -> None:
        """A rate is known, which holds requests back better than places do: no need to feel the way."""
        if not self._is_paced and self._grows_quickly:
            self._set(float(self._ceiling))
        self._is_paced = True

    def congested(self, number: int, sent: int) -> bool:
        """The server wants less, or took too long, for the request of this number, when `sent` were sent in all.

        Returns whether the limit was cut; a request sent before the last cut is answered for by that one.
        """
        self._grows_quickly = self._is_paced  # the rate holds requests back by itself
        if number <= self._cut_at:
            return False
        self._cut_at = sent
        self._set(max(self._exact * _CUT, 1.0))
        return True

    def _set(self, exact: float) -> None:
        self._exact = exact
        self.limit = int(exact)
