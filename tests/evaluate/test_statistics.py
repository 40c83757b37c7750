"""The formulas against check values, other implementations, and simulated coverage."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from asyncgen.evaluate.statistics import (
    Interval,
    PairedCounts,
    agreement,
    bootstrap,
    bradley_terry,
    holm,
    length_controlled,
    newcombe,
    paired_counts,
    quantile,
    sign_test,
    units_needed,
    wilson,
)

counts = st.integers(0, 60)


@settings(max_examples=40)
@given(counts, counts)
def test_wilson_is_that_of_statsmodels(successes: int, failures: int) -> None:
    units = successes + failures
    if not units:
        assert wilson(0, 0) == Interval(0.0, 0.0, 1.0)
        return
    low, high = proportion_confint(successes, units, method="wilson")
    found = wilson(successes, units)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_wilson_of_17_of_20_is_the_published_one() -> None:
    assert wilson(17, 20).low == pytest.approx(0.640, abs=5e-4)
    assert wilson(17, 20).high == pytest.approx(0.948, abs=5e-4)


@pytest.mark.parametrize(
    ("table", "difference", "low", "high"),
    [
        ((36, 12, 2, 0), 0.200, 0.0569, 0.3404),
        ((24, 9, 2, 5), 0.175, 0.0109, 0.3299),
        ((40, 0, 0, 0), 0.0, -0.0876, 0.0876),
        ((84, 20, 5, 11), 0.125, 0.044, 0.207),
        ((70, 6, 3, 21), 0.03, -0.033, 0.094),
    ],
)
def test_newcombe_has_the_check_values(
    table: tuple[int, int, int, int], difference: float, low: float, high: float
) -> None:
    found = newcombe(PairedCounts(*table))
    digits = 1e-3 if len(str(low)) <= 6 and table[0] > 40 else 5e-5
    assert found.value == pytest.approx(difference)
    assert (found.low, found.high) == pytest.approx((low, high), abs=digits)


@settings(max_examples=40)
@given(counts, counts, counts, counts)
def test_newcombe_turned_round_is_its_mirror_image(both: int, a: int, b: int, neither: int) -> None:
    one, other = newcombe(PairedCounts(both, a, b, neither)), newcombe(PairedCounts(both, b, a, neither))
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-9)
    assert -1 <= one.low <= one.value <= one.high <= 1


def test_newcombe_covers_the_true_difference_as_often_as_it_says() -> None:
    random, covered, draws, units = Random(1), 0, 1_000, 40
    chances = (0.55, 0.20, 0.08, 0.17)
    true = chances[1] - chances[2]
    for _ in range(draws):
        drawn = random.choices(range(4), chances, k=units)
        found = newcombe(PairedCounts(*(drawn.count(case) for case in range(4))))
        covered += found.low <= true <= found.high
    assert 0.93 <= covered / draws <= 0.985


@settings(max_examples=40)
@given(counts, counts)
def test_the_sign_test_is_the_exact_one(wins: int, losses: int) -> None:
    expected = binomtest(wins, wins + losses, 0.5).pvalue if wins + losses else 1.0
    assert sign_test(wins, losses) == pytest.approx(expected)
    assert sign_test(wins, losses) == pytest.approx(mcnemar([[0, wins], [losses, 0]], exact=True).pvalue)


def test_the_sign_test_of_nine_to_two() -> None:
    assert sign_test(9, 2) == pytest.approx(0.0654, abs=5e-5)


@pytest.mark.parametrize("p_values", [[0.04], [0.01, 0.04, 0.03, 0.005], [0.2, 0.2, 0.01], [1.0, 0.5, 0.6, 0.0]])
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


def test_no_p_values_need_no_correction() -> None:
    assert holm([]) == []


def test_a_paired_table_is_counted_by_case() -> None:
    a, b = [True, True, False, False, True], [True, False, True, False, False]
    assert paired_counts(a, b) == PairedCounts(1, 2, 1, 1)
    assert paired_counts(a, b).difference == pytest.approx(0.2)


def test_the_bootstrap_over_clusters_rejects_a_true_null_as_rarely_as_it_says() -> None:
    """Units of a cluster are alike: drawn one by one they would reject far too often."""
    random, wrong, wrong_alone, tests = Random(2), 0, 0, 80
    for test in range(tests):
        effects = [random.gauss(0, 1) for _ in range(30)]
        values = [effect + random.gauss(0, 0.3) for effect in effects for _ in range(8)]
        clusters = [cluster for cluster in range(30) for _ in range(8)]
        found = bootstrap(values, clusters, seed=test, draws=200)
        alone = bootstrap(values, range(len(values)), seed=test, draws=200)
        wrong += not found.low <= 0 <= found.high
        wrong_alone += not alone.low <= 0 <= alone.high
    assert wrong / tests <= 0.12
    assert wrong_alone / tests >= 0.3


def test_the_bootstrap_is_the_same_for_the_same_seed_and_takes_any_figure() -> None:
    values = [float(value) for value in range(20)]
    assert bootstrap(values, values, seed=3) == bootstrap(values, values, seed=3)
    assert bootstrap(values, values, seed=3) != bootstrap(values, values, seed=4)
    found = bootstrap(values, values, seed=3, draws=500, statistic=max)
    assert found.value == 19
    assert found.low < found.high <= 19


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert bootstrap([2.0, 2.0], ["a", "b"], seed=1, draws=10) == Interval(2.0, 2.0, 2.0)


def test_nothing_cannot_be_drawn_from() -> None:
    with pytest.raises(ValueError, match="nothing"):
        bootstrap([], [], seed=1)


def test_more_units_are_needed_for_smaller_differences() -> None:
    seen = PairedCounts(70, 6, 3, 21)
    assert units_needed(seen.discordant, seen.difference) == 780
    assert units_needed(0.09, 0.05) == 280
    assert units_needed(0.3, 0.0) is None
    assert units_needed(0.0, 0.05) == 150  # whatever is seen, a difference of five points needs so many that differ


def test_so_many_units_find_the_difference_four_times_of_five() -> None:
    random, chances = Random(5), (0.15, 0.05)
    units, found = units_needed(sum(chances), 0.10), 0
    assert units is not None
    for _ in range(300):
        drawn = random.choices("ab-", (*chances, 1 - sum(chances)), k=units)
        found += sign_test(drawn.count("a"), drawn.count("b")) < 0.05
    assert 0.7 <= found / 300 <= 0.88


def test_length_control_takes_away_what_length_alone_won() -> None:
    random = Random(6)
    lengths = [random.gauss(0, 40) for _ in range(400)]
    by_length = [1.0 if length + random.gauss(0, 60) > 0 else 0.0 for length in lengths]
    longer = [length + 90 for length in lengths]
    shifted = [1.0 if length + random.gauss(0, 60) > 0 else 0.0 for length in longer]
    assert sum(shifted) / 400 > 0.8
    assert length_controlled(by_length, lengths) == pytest.approx(0.5, abs=0.08)
    assert length_controlled(shifted, longer) < 0.65


def test_length_control_without_any_difference_is_the_plain_rate() -> None:
    assert length_controlled([1, 1, 1, 0], [0, 0, 0, 0]) == pytest.approx(0.75, abs=1e-3)
    assert 0.99 < length_controlled([1] * 60, [5] * 60) <= 1


@settings(max_examples=40)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=80), st.integers(0, 999))
def test_length_control_gives_a_share_whatever_comes(scores: list[float], seed: int) -> None:
    random = Random(seed)
    found = length_controlled(scores, [random.uniform(-500, 500) for _ in scores])
    assert 0 <= found <= 1


def test_bradley_terry_gives_the_chances_that_made_the_wins() -> None:
    names = ["a", "b", "c"]
    true = {"a": 2.0, "b": 1.0, "c": 0.5}
    wins = {(x, y): 10_000 * true[x] / (true[x] + true[y]) for x in names for y in names if x != y}
    found = bradley_terry(wins, names)
    assert found["a"] / found["b"] == pytest.approx(2.0, rel=0.01)
    assert found["b"] / found["c"] == pytest.approx(2.0, rel=0.01)
    assert math.isfinite(bradley_terry({("a", "b"): 5.0}, names)["a"])


def test_kappa_is_what_chance_leaves() -> None:
    assert agreement(["a", "b", "a", "b"], ["a", "b", "a", "b"]) == pytest.approx(1.0)
    assert agreement(["a", "a", "b", "b"], ["a", "b", "a", "b"]) == pytest.approx(0.0)
    assert agreement([], []) is None
    assert agreement(["a"], ["a"]) is None


def test_a_quantile_lies_between_its_neighbours() -> None:
    assert quantile([1, 2, 3, 4], 0.5) == pytest.approx(2.5)
    assert math.isnan(quantile([], 0.5))
