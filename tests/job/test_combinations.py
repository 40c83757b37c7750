import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.job.combinations import Combinations, SubsetChoice

axes = st.dictionaries(
    st.sampled_from("abc"), st.lists(st.text(max_size=3), min_size=1, max_size=5, unique=True), min_size=1
)


class Rows:
    """A table in memory."""

    def __init__(self, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        self.columns = columns
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def digest(self) -> str:
        return repr(self._rows)

    def __getitem__(self, place: int) -> tuple[str, ...]:
        return self._rows[place]

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._rows)


@given(axes)
def test_the_last_axis_varies_fastest_and_every_combination_comes_once(grid: dict[str, list[str]]) -> None:
    combinations = Combinations(grid)
    assert [values for _, values in combinations] == list(itertools.product(*grid.values()))
    assert [place for place, _ in combinations] == list(range(combinations.count))


@given(axes)
def test_a_place_gives_the_combination_that_enumeration_gives(grid: dict[str, list[str]]) -> None:
    combinations = Combinations(grid)
    assert all(combinations[place] == values and values in combinations for place, values in combinations)


def test_rows_are_multiplied_with_the_axes_and_vary_slowest() -> None:
    combinations = Combinations({"z": ["1", "2"]}, Rows(("x", "y"), [("a", "b"), ("c", "d")]))
    assert combinations.names == ("x", "y", "z")
    assert [values for _, values in combinations] == [
        ("a", "b", "1"),
        ("a", "b", "2"),
        ("c", "d", "1"),
        ("c", "d", "2"),
    ]
    assert combinations[3] == ("c", "d", "2")
    assert ("c", "d", "1") in combinations
    assert ("c", "b", "1") not in combinations


def test_an_empty_table_has_no_combinations() -> None:
    combinations = Combinations({"z": ["1"]}, Rows(("x",), []), subset=(5, 1))
    assert combinations.count == 0
    assert list(combinations) == []


@given(st.integers(1, 3000), st.integers(0, 3000), st.integers(0, 2**70))
def test_a_subset_is_without_replacement_and_knows_its_members(count: int, size: int, seed: int) -> None:
    subset = SubsetChoice(count, min(size, count), seed)
    chosen = list(subset)
    assert len(set(chosen)) == len(chosen) == min(size, count)
    assert all(0 <= place < count for place in chosen)
    assert {place for place in range(count) if place in subset} == set(chosen)


@given(st.integers(10, 500), st.integers(0, 100))
def test_a_larger_subset_holds_the_smaller_one(count: int, seed: int) -> None:
    assert list(SubsetChoice(count, count // 2, seed)) == list(SubsetChoice(count, count, seed))[: count // 2]


def test_a_subset_spreads_over_the_whole_range() -> None:
    tenths = [0] * 10
    for place in SubsetChoice(1_000_000, 10_000, 7):
        tenths[place // 100_000] += 1
    assert all(850 < count < 1150 for count in tenths)


def test_seeds_choose_differently() -> None:
    assert set(SubsetChoice(10_000, 100, 1)) != set(SubsetChoice(10_000, 100, 2))


def test_a_grid_of_a_thousand_million_starts_at_once() -> None:
    thousand = [str(number) for number in range(1000)]
    began = time.process_time()
    combinations = Combinations({"a": thousand, "b": thousand, "c": thousand})
    assert next(iter(combinations)) == (0, ("0", "0", "0"))
    assert next(iter(Combinations({"a": thousand, "b": thousand, "c": thousand}, subset=(10, 1))))
    assert combinations.count == 10**9
    assert time.process_time() - began < 1  # a second is for ever here: the grid would take minutes


def test_a_spread_of_a_large_grid_is_quick_in_order_and_meets_every_value() -> None:
    combinations = Combinations({name: [f"{name}{at}" for at in range(10)] for name in "abcdefghi"})
    start = time.process_time()
    spread = list(combinations.sample(200))
    assert time.process_time() - start < 1.0
    places = [place for place, _ in spread]
    assert places == sorted(set(places))
    assert places[0] == 0
    assert all(combinations[place] == values for place, values in spread)
    assert all(len({values[axis] for _, values in spread}) == 10 for axis in range(9))


@given(st.integers(1, 60), st.integers(1, 80), st.booleans())
def test_a_spread_takes_no_more_than_asked_for_and_nothing_twice(count: int, most: int, subset: bool) -> None:
    axes = {"a": [str(at) for at in range(count)]}
    combinations = Combinations(axes, subset=(max(count // 2, 1), 7) if subset else None)
    spread = list(combinations.sample(most))
    assert len(spread) == len(set(spread)) <= most
    assert set(spread) <= set(combinations)
    assert len(spread) == combinations.count or most < combinations.count


@given(
    axes,
    st.lists(st.dictionaries(st.sampled_from("abcx"), st.text(max_size=3), min_size=1), max_size=4),
    st.none() | st.integers(1, 200),
    st.booleans(),
)
def test_what_is_excluded_is_left_out_everywhere_and_counted(
    grid: dict[str, list[str]], exclude: list[dict[str, str]], size: int | None, with_rows: bool
) -> None:
    names = [*(["x"] if with_rows else []), *grid]
    entries = [{name: value for name, value in entry.items() if name in names} for entry in exclude]
    entries = [entry for entry in entries if entry]
    table = Rows(("x",), [("",), ("0",), ("00",)]) if with_rows else None
    whole = Combinations(grid, table)

    def is_kept(values: tuple[str, ...]) -> bool:
        given = dict(zip(names, values, strict=True))
        return not any(all(given[name] == value for name, value in entry.items()) for entry in entries)

    left = [(place, values) for place, values in whole if is_kept(values)]
    combinations = Combinations(grid, table, (size, 3) if size else None, entries)
    found = list(combinations)
    assert combinations.excluded == whole.count - len(left)
    assert combinations.count == len(found) == (min(size, len(left)) if size else len(left))
    assert set(found) <= set(left)
    assert [(place, values) for place, values, _ in combinations.encoded(str)] == found
    assert all((values in combinations) == ((place, values) in found) for place, values in whole)
    assert set(combinations.sample(5)) <= set(left)


def test_the_excluded_of_a_large_grid_are_counted_without_going_over_it() -> None:
    grid = {name: [str(at) for at in range(100)] for name in "abcdefgh"}
    entries = [{"a": "1"}, {"b": "2", "c": "3"}, {"a": "1", "h": "4"}]
    assert Combinations(grid, exclude=entries).excluded == 100**7 + 99 * 100**5


@pytest.mark.parametrize(("axes_count", "values"), [(132, 2), (200, 2), (40, 10), (20, 100)])
def test_a_subset_of_more_than_128_bits_varies_every_axis(axes_count: int, values: int) -> None:
    subset = SubsetChoice(values**axes_count, 2_000, 7)
    grid = {f"a{at}": [str(value) for value in range(values)] for at in range(axes_count)}
    combinations = Combinations(grid, subset=(2_000, 7))
    chosen = [row for _, row in combinations]
    assert len(set(chosen)) == 2_000
    assert all(len(set(column)) == values for column in zip(*chosen, strict=True))
    assert all(place in subset for place in list(subset)[:20])


def test_a_subset_of_up_to_128_bits_keeps_its_choice() -> None:
    assert list(SubsetChoice(2**128, 3, 7)) == [
        277656851204873193579815586002986680569,
        210487132682779852084572165715325757898,
        28880779014532443541689530703049062855,
    ]
