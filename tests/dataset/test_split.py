"""The split: seeded, by combination, spread over the axes, and no combination ever changes its side."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.dataset.split import MOST_RANKED, SideCounts, Split, SplitPlan, plan_split
from asyncgen.job.combinations import Combinations
from asyncgen.job.model import DatasetSettings, Generate, Job, Prompt
from asyncgen.job.requests import RequestGrid

MakeRun = Callable[..., Any]

sizes = st.lists(st.integers(1, 5), min_size=1, max_size=4)
shares = st.sampled_from([0.05, 0.1, 0.15, 0.2, 0.25, 0.5])
seeds = st.integers(0, 10_000)


def axes_of(sizes: list[int]) -> dict[str, list[str]]:
    return {name: [f"{name}{value}" for value in range(size)] for name, size in zip("abcd", sizes, strict=False)}


def grid(axes: dict[str, list[str]], sample: str | None = None, repeats: int = 1) -> RequestGrid:
    user = " ".join(f"{{{name}}}" for name in axes)
    job = Job(name="job", prompt=Prompt(user=user, sample=sample), generate=Generate(repeats=repeats))
    return RequestGrid(job, Combinations(axes), "model")


def rows(axes: dict[str, list[str]]) -> list[dict[str, str]]:
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def settings(share: float, seed: int, **held: list[str]) -> DatasetSettings:
    return DatasetSettings(validation=share, seed=seed, hold_out={name: [*values] for name, values in held.items()})


def sides(axes: dict[str, list[str]], share: float, seed: int) -> list[bool]:
    wanted = settings(share, seed)
    split = Split(plan_split(grid(axes), wanted, None), wanted.hold_out)
    return [split.validates(row) for row in rows(axes)]


@given(sizes, shares, seeds)
def test_a_small_grid_has_its_share_of_combinations_to_within_one(sizes: list[int], share: float, seed: int) -> None:
    validates = sides(axes_of(sizes), share, seed)
    assert abs(sum(validates) - share * len(validates)) <= 1


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("sizes", [[6, 3, 3], [20, 10], [30, 2], [100, 10]])
def test_each_value_of_each_axis_gets_its_share_to_within_two(sizes: list[int], seed: int) -> None:
    axes = axes_of(sizes)
    validates = sides(axes, 0.1, seed)
    assert abs(sum(validates) - 0.1 * len(validates)) <= max(1, len(validates) * 0.01)
    for name, values in axes.items():
        for value in values:
            of_value = [side for row, side in zip(rows(axes), validates, strict=True) if row[name] == value]
            assert abs(sum(of_value) - 0.1 * len(of_value)) <= 2


@given(sizes, shares, seeds, st.integers().map(random.Random))
def test_no_combination_changes_sides_when_values_are_put_between_others(
    sizes: list[int], share: float, seed: int, rng: random.Random
) -> None:
    before = axes_of(sizes)
    wanted = settings(share, seed)
    old = plan_split(grid(before), wanted, None)
    larger = axes_of([size + rng.randrange(3) for size in sizes])
    after = {name: rng.sample(values, len(values)) for name, values in larger.items()}
    new = plan_split(grid(after), wanted, old)
    first, second = Split(old), Split(new)
    for row in rows(before):
        assert first.validates(row) == second.validates(row)


@given(sizes, st.integers(0, 3), shares, seeds)
def test_variables_that_the_short_prompt_does_not_name_do_not_decide(
    sizes: list[int], named: int, share: float, seed: int
) -> None:
    axes = axes_of(sizes)
    name = list(axes)[named % len(axes)]
    wanted = settings(share, seed)
    split = Split(plan_split(grid(axes, sample=f"for {{{name}}}"), wanted, None))
    by_prompt: dict[str, set[bool]] = {}
    for row in rows(axes):
        by_prompt.setdefault(row[name], set()).add(split.validates(row))
    assert all(len(found) == 1 for found in by_prompt.values())


@given(sizes, shares, seeds)
def test_values_held_out_validate_whole_and_the_others_by_their_share(
    sizes: list[int], share: float, seed: int
) -> None:
    axes = axes_of(sizes)
    wanted = settings(share, seed, a=["a0"])
    split = Split(plan_split(grid(axes), wanted, None), wanted.hold_out)
    assert all(split.validates(row) for row in rows(axes) if row["a"] == "a0")
    rest = [split.validates(row) for row in rows(axes) if row["a"] != "a0"]
    assert abs(sum(rest) - share * len(rest)) <= 1


def test_numbers_can_be_held_out_as_they_stand_in_the_grid() -> None:
    split = Split(SplitPlan(0.0, 7, 0, {}), {"stars": [5]})
    assert split.validates({"stars": "5"})
    assert not split.validates({"stars": "4"})


def ranks(axes: dict[str, list[str]], known: dict[str, list[str]] | None) -> Any:
    before = SplitPlan(0.1, 7, 0, known) if known is not None else None
    return plan_split(grid(axes), settings(0.1, 7), before).ranks


def test_known_values_keep_their_ranks_and_new_ones_come_behind() -> None:
    known = {"city": ["Paris", "Berlin"]}
    assert ranks({"city": ["Aachen", "Berlin", "Paris", "Bonn"]}, known) == {
        "city": ["Paris", "Berlin", "Aachen", "Bonn"]
    }


def test_an_axis_of_very_many_values_has_no_ranks_and_never_gets_any() -> None:
    values = [f"value {number}" for number in range(MOST_RANKED + 1)]
    first = ranks({"text": values}, None)
    assert first == {"text": []}
    assert ranks({"text": values[:3]}, first) == {"text": []}


def test_values_that_come_when_all_ranks_are_given_leave_the_others_alone() -> None:
    values = [f"value {number}" for number in range(MOST_RANKED + 50)]
    full = ranks({"text": values[:MOST_RANKED]}, None)
    assert ranks({"text": values}, full) == full


def test_an_axis_without_ranks_is_split_by_chance_near_its_share() -> None:
    validates = sides({"text": [f"value {number}" for number in range(5000)]}, 0.1, 7)
    assert abs(sum(validates) - 500) < 100


def test_another_seed_gives_another_choice_and_the_same_seed_the_same() -> None:
    axes = axes_of([6, 3, 3])
    assert sides(axes, 0.1, 7) == sides(axes, 0.1, 7)
    assert sides(axes, 0.1, 7) != sides(axes, 0.1, 8)


def test_validation_prompts_are_not_trained_on(make_run: MakeRun) -> None:
    made = make_run("[dataset]\nvalidation = 0.25\nseed = 7\n").fill()
    split = Split(plan_split(made.opened.grid, made.opened.job.dataset, None))
    prompts: dict[bool, set[str]] = {True: set(), False: set()}
    for record in made.records:
        prompts[split.validates(record.variables)].add(record.prompt)
    assert len(prompts[True]) == 3
    assert not prompts[True] & prompts[False]


def test_without_a_share_nothing_validates() -> None:
    assert not any(sides(axes_of([4, 4]), 0.0, 7))


def test_values_on_one_side_only_are_thin() -> None:
    counts = SideCounts()
    for number in range(10):
        counts.add({"city": "Paris" if number > 2 else "Oslo", "size": "small"}, validates=number == 3)
    assert [(thin.axis, thin.value, thin.samples, thin.missing) for thin in counts.thin(0.4)] == [
        ("city", "Oslo", 3, "validation")
    ]
    assert not list(counts.thin(0.3))  # three samples are too few to expect one


def test_an_axis_of_names_is_no_cause_for_warnings() -> None:
    counts = SideCounts()
    for number in range(40):
        counts.add({"company": f"Firm {number}", "city": "Ghent"}, validates=number % 10 == 0)
    assert not list(counts.thin(0.1))


def test_an_axis_of_thousands_of_values_is_no_cause_for_warnings() -> None:
    counts = SideCounts()
    for number in range(3000):
        counts.add({"text": str(random.Random(number).random())}, validates=False)
    assert not list(counts.thin(0.1))
