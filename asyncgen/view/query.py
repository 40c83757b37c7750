"""Queries of the page: chosen facet values, a search text, and an order.

Parses a query, finds its rows as places in a `RowIndex`, and counts the values of each facet; repeated queries are
cached. Values of one facet are alternatives, facets restrict each other. The counts of a facet are those that choosing
another of its values would give.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from asyncgen.errors import UsageError
from asyncgen.run.records import Failure, Record
from asyncgen.run.reviews import NO_REVIEWS
from asyncgen.view.index import RowIndex, bits_of, places_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

STATUSES = ("done", "failed", "rejected", "stale")
REVIEWS = ("rejected by you", "seen", "not seen")
_OWN = frozenset({"search", "sort", "differ"})
_KEPT = 6
_SHOWN_VALUES = 100
_PLAIN = re.compile(r'[^"\\/\x00-\x1f\x7f]+')


@dataclass(frozen=True, slots=True)
class Query:
    """A query of the page.

    Attributes:
        chosen: facet to the allowed values.
        search: a text that the row contains, ignoring case; "" for any.
        differ: only rows of combinations whose repeats differ.
        sort: one of `SORTS`.
    """

    chosen: tuple[tuple[str, tuple[str, ...]], ...] = ()
    search: str = ""
    differ: bool = False
    sort: str = "newest"

    @classmethod
    def of(cls, parameters: Mapping[str, Sequence[str]]) -> Query:
        """Parse the query of a URL: `search`, `sort`, `differ`, and any number of values per facet.

        Raises:
            UsageError: the order is unknown.
        """
        sort = (parameters.get("sort") or ["newest"])[0]
        if sort not in SORTS:
            raise UsageError(f"there is no sort order {sort!r}", help_text=f"possible: {', '.join(SORTS)}")
        chosen = {name: tuple(sorted(set(values))) for name, values in parameters.items() if name not in _OWN}
        return cls(
            chosen=tuple(sorted(chosen.items())),
            search=(parameters.get("search") or [""])[0].strip(),
            differ=(parameters.get("differ") or [""])[0] == "1",
            sort=sort,
        )


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The rows of a query.

    Attributes:
        places: in the order asked for.
        facets: name to (value, rows) pairs; the largest hundred of each.
        truncated: names of facets of which not all values are listed.
    """

    places: Sequence[int]
    facets: dict[str, list[tuple[str, int]]]
    truncated: list[str]


SORTS: dict[str, Callable[[RowIndex, list[int]], Sequence[int]]] = {
    "newest": lambda index, places: sorted(places, key=index.created.__getitem__)[::-1],
    "oldest": lambda index, places: sorted(places, key=index.created.__getitem__),
    "grid": lambda index, places: sorted(places, key=index.indexes.__getitem__),
    "slowest": lambda index, places: sorted(places, key=index.latencies.__getitem__, reverse=True),
    "longest": lambda index, places: sorted(places, key=index.lengths.__getitem__, reverse=True),
    "shortest": lambda index, places: sorted(places, key=index.lengths.__getitem__),
}


class Searcher:
    """Finds the rows of queries.

    Args:
        index: of the run.

    Attributes:
        reviews: what a person decided; set it anew when that changed.
        stale: the rows that the job does not ask for any more, as a set.
    """

    def __init__(self, index: RowIndex) -> None:
        self._index = index
        self._found: OrderedDict[tuple[object, ...], QueryResult] = OrderedDict()
        self._texts: OrderedDict[tuple[int, str], tuple[int, list[int]]] = OrderedDict()
        self._reviewed: tuple[object, int, int, int] | None = None
        self.reviews = NO_REVIEWS
        self.stale = 0

    def find(self, query: Query) -> QueryResult:
        """The rows of a query.

        Raises:
            DiskError: a file of the run cannot be read.
        """
        state = (query, self._index.version, id(self.reviews), self.stale.bit_count())
        if state not in self._found:
            self._found[state] = self._searched(query)
            while len(self._found) > _KEPT:
                self._found.popitem(last=False)
        self._found.move_to_end(state)
        return self._found[state]

    def statuses(self) -> dict[str, int]:
        """Status to the rows that have it, as sets; every row that counts has one."""
        index = self._index
        failed = index.failures & ~self.stale
        records = _all(index) & ~index.failures & ~index.superseded & ~self.stale
        rejected = records & (index.unusable | self.rejected_by_person())
        return {
            "done": records & ~rejected,
            "failed": failed,
            "rejected": rejected,
            "stale": self.stale & ~index.superseded,
        }

    def rejected_by_person(self) -> int:
        """The rows whose answer a person rejected, as a set."""
        return self._judged()[0]

    def seen(self) -> int:
        """The rows whose answer a person has seen, as a set."""
        return self._judged()[1]

    def _judged(self) -> tuple[int, int]:
        """The rows that a person rejected, and those that were seen, as sets."""
        if self._reviewed is None or self._reviewed[0] is not self.reviews or self._reviewed[1] != self._index.version:
            rejected = self._index.judged(dict(self.reviews.rejected))
            seen = self._index.judged(dict(self.reviews.seen))
            self._reviewed = (self.reviews, self._index.version, rejected, seen)
        return self._reviewed[2], self._reviewed[3]

    def _searched(self, query: Query) -> QueryResult:
        named = self._named_sets()
        shown = reduce(or_, self.statuses().values())
        if query.differ:
            shown &= self._index.differing()
        if query.search:
            shown &= self._with_text(query.search)
        chosen = {name: self._any_of(name, values, named) for name, values in query.chosen}
        mask = shown
        for bits in chosen.values():
            mask &= bits
        facets: dict[str, list[tuple[str, int]]] = {}
        truncated = []
        places = places_in(mask)
        for name in (*named, *self._index.facets, "check"):
            others = [bits for other, bits in chosen.items() if other != name]
            wider = reduce(lambda left, right: left & right, others, shown)
            counts = self._counts(name, wider, places if wider == mask else None, named)
            picked = dict(query.chosen).get(name, ())
            largest = _largest(counts, picked)
            if len(largest) < len(counts):
                truncated.append(name)
            facets[name] = largest
        return QueryResult(SORTS[query.sort](self._index, places), facets, truncated)

    def _named_sets(self) -> dict[str, dict[str, int]]:
        """The facets whose values can change after a row was read."""
        rejected, seen, everything = self.rejected_by_person(), self.seen(), _all(self._index)
        return {
            "status": self.statuses(),
            "review": dict(zip(REVIEWS, (rejected, seen, everything & ~seen), strict=True)),
        }

    def _any_of(self, name: str, values: Sequence[str], named: Mapping[str, Mapping[str, int]]) -> int:
        if name in named:
            return reduce(or_, (named[name].get(value, 0) for value in values), 0)
        if name == "check":
            return reduce(or_, map(self._index.checks.bits, values), 0)
        facet = self._index.facets.get(name)
        return reduce(or_, map(facet.bits, values), 0) if facet else 0

    def _counts(
        self, name: str, mask: int, places: list[int] | None, named: Mapping[str, Mapping[str, int]]
    ) -> list[tuple[str, int]]:
        if name in named:
            return [(value, (mask & bits).bit_count()) for value, bits in named[name].items()]
        if name == "check":
            return self._index.checks.counts(mask)
        return self._index.facets[name].counts(mask, places if places is not None else places_in(mask))

    def _with_text(self, text: str) -> int:
        """The rows that contain a text. The result is cached; only new rows are searched."""
        wanted = text.casefold()
        asked = (self._index.generation, wanted)
        searched, found = self._texts.get(asked, (0, []))
        fresh = list(range(searched, len(self._index)))
        for place, line in zip(fresh, self._index.lines(fresh), strict=True):
            if self._has(place, line, wanted):
                found.append(place)
        self._texts[asked] = (len(self._index), found)
        self._texts.move_to_end(asked)
        while len(self._texts) > _KEPT:
            self._texts.popitem(last=False)
        return bits_of(found)

    def _has(self, place: int, line: bytes, wanted: str) -> bool:
        # The line as it stands rules most rows out: what JSON need not escape stands there as it is. Elsewhere a
        # letter may have been folded into another one, such as ß into ss.
        if line.isascii() and _PLAIN.fullmatch(wanted) and wanted.encode() not in line.lower():
            return False
        return any(wanted in text.casefold() for text in texts_of(self._index.decoded(place, line)))


def texts_of(row: Record | Failure) -> list[str]:
    """The texts of a row that a search covers."""
    texts = [*row.variables.values(), row.key]
    if isinstance(row, Record):
        reasoning = getattr(row, "reasoning", None)
        return [*texts, row.prompt, row.completion, *([reasoning] if reasoning else [])]
    return [*texts, row.error.message, row.error.type]


def _all(index: RowIndex) -> int:
    return (1 << len(index)) - 1


def _largest(counts: list[tuple[str, int]], chosen: Sequence[str]) -> list[tuple[str, int]]:
    """All values in order, or the hundred most frequent ones and the chosen ones."""
    if len(counts) <= _SHOWN_VALUES:
        return counts
    ranked = sorted(counts, key=lambda pair: -pair[1])[:_SHOWN_VALUES]
    return ranked + [pair for pair in counts if pair[0] in chosen and pair not in ranked]


def preview(row: Record | Failure) -> str:
    """The beginning of an answer, or of the reason why there is none, on one line."""
    text = row.completion if isinstance(row, Record) else f"{row.error.type}: {row.error.message}"
    return " ".join(text[:400].split())[:240]
