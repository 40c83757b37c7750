"""The split: seeded, spread over the axes, and no sample ever changes its side."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.dataset.split import MOST_RANKED, AxisValues, SideCounts, Split

Row = tuple[dict[str, str], int]

sizes = st.lists(st.integers(1, 5), min_size=1, max_size=3)
shares = st.sampled_from([0.05, 0.1, 0.15, 0.2, 0.25, 0.5])
seeds = st.integers(0, 10_000)


def grid(sizes: list[int], repeats: int) -> list[Row]:
    axes = [[f"{name}{value}" for value in range(size)] for name, size in zip("abcd", sizes, strict=False)]
    return [
        (dict(zip("abcd", values, strict=False)), repeat)
        for values in itertools.product(*axes)
        for repeat in range(repeats)
    ]


def ranks(rows: list[Row], known: dict[str, list[str]] | None = None) -> dict[str, list[str]]:
    values = AxisValues()
    for index, (variables, _) in enumerate(rows):
        values.add(variables, index)
    return values.ranks(known or {})


def sides(rows: list[Row], share: float, seed: int, known: dict[str, list[str]] | None = None) -> list[bool]:
    split = Split(share, seed, ranks(rows, known))
    return [split.validates(variables, repeat) for variables, repeat in rows]


@given(sizes, st.integers(1, 6), shares, seeds)
def test_each_combination_gives_its_share_of_repeats_to_within_one(
    sizes: list[int], repeats: int, share: float, seed: int
) -> None:
    rows = grid(sizes, repeats)
    validates = sides(rows, share, seed)
    for begin in range(0, len(rows), repeats):
        count = sum(validates[begin : begin + repeats])
        assert math.floor(repeats * share + 1e-9) <= count <= math.ceil(repeats * share - 1e-9)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("sizes", "repeats"), [([6, 3, 3], 3), ([6, 3, 3], 1), ([20, 10], 2)])
def test_each_value_of_each_axis_gets_its_share_to_within_a_few_samples(
    sizes: list[int], repeats: int, seed: int
) -> None:
    rows = grid(sizes, repeats)
    validates = sides(rows, 0.1, seed)
    assert abs(sum(validates) - 0.1 * len(rows)) <= 4
    for axis, value in {item for variables, _ in rows for item in variables.items()}:
        of_value = [side for (variables, _), side in zip(rows, validates, strict=True) if variables[axis] == value]
        assert abs(sum(of_value) - 0.1 * len(of_value)) <= 3


@given(sizes, st.integers(1, 4), shares, seeds, st.integers().map(random.Random))
def test_the_order_in_which_rows_came_does_not_matter(
    sizes: list[int], repeats: int, share: float, seed: int, rng: random.Random
) -> None:
    rows = list(enumerate(grid(sizes, repeats)))
    shuffled = rng.sample(rows, len(rows))
    values = AxisValues()
    for index, (variables, _) in shuffled:
        values.add(variables, index)
    split = Split(share, seed, values.ranks({}))
    assert [split.validates(*row) for _, row in rows] == sides([row for _, row in rows], share, seed)


@given(sizes, st.integers(1, 4), shares, seeds, st.integers().map(random.Random))
def test_no_sample_changes_sides_when_values_are_put_between_others_and_repeats_are_added(
    sizes: list[int], repeats: int, share: float, seed: int, rng: random.Random
) -> None:
    before = grid(sizes, repeats)
    old = ranks(before)
    larger = grid([size + rng.randrange(3) for size in sizes], repeats + rng.randrange(3))
    after = rng.sample(larger, len(larger))  # new values come before old ones, too
    new = ranks(after, old)
    first, second = Split(share, seed, old), Split(share, seed, new)
    for variables, repeat in before:
        assert first.validates(variables, repeat) == second.validates(variables, repeat)


def test_known_values_keep_their_ranks_and_new_ones_come_behind() -> None:
    known = {"city": ["Paris", "Berlin"]}
    rows = [({"city": city}, 0) for city in ("Aachen", "Berlin", "Paris", "Bonn")]
    assert ranks(rows, known) == {"city": ["Paris", "Berlin", "Aachen", "Bonn"]}


def test_an_axis_of_very_many_values_has_no_ranks_and_never_gets_any() -> None:
    rows = [({"text": f"value {number}"}, 0) for number in range(MOST_RANKED + 1)]
    first = ranks(rows)
    assert first == {"text": []}
    assert ranks(rows[:3], first) == {"text": []}


def test_values_that_come_when_all_ranks_are_given_leave_the_others_alone() -> None:
    full = ranks([({"text": f"value {number}"}, 0) for number in range(MOST_RANKED)])
    more = ranks([({"text": f"value {number}"}, 0) for number in range(MOST_RANKED + 50)], full)
    assert more == full


def test_an_axis_without_ranks_is_split_by_chance_near_its_share() -> None:
    rows = [({"text": f"value {number}"}, 0) for number in range(5000)]
    assert abs(sum(sides(rows, 0.1, 7)) - 500) < 100


def test_another_seed_gives_another_choice_and_the_same_seed_the_same() -> None:
    rows = grid([6, 3, 3], 3)
    assert sides(rows, 0.1, 7) == sides(rows, 0.1, 7)
    assert sides(rows, 0.1, 7) != sides(rows, 0.1, 8)


def test_without_a_share_nothing_validates() -> None:
    assert not any(sides(grid([4, 4], 3), 0.0, 7))


def test_values_on_one_side_only_are_thin() -> None:
    counts = SideCounts()
    for number in range(10):
        counts.add({"city": "Paris" if number else "Oslo", "size": "small"}, validates=number == 1)
    assert [(thin.axis, thin.value, thin.samples, thin.missing) for thin in counts.thin()] == [
        ("city", "Oslo", 1, "validation")
    ]


def test_an_axis_of_thousands_of_values_is_no_cause_for_warnings() -> None:
    counts = SideCounts()
    for number in range(3000):
        counts.add({"text": str(random.Random(number).random())}, validates=False)
    assert not list(counts.thin())
