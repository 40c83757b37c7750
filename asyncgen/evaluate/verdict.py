"""The verdict: which technique the job should use, and after how many calls the tuned model pays off.

One test decides which contestant is better: an exact sign test, Holm-corrected over the pairs against the best. The
interval tells by how much, and whether a cheaper contestant is worse by more than the margin fixed before. Costs are
those measured by this evaluation; `plan` estimates the same before. Hosting costs of the tuned model are part of its
price if that is per token, and a note if it is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from asyncgen.evaluate.measures import Answers, ContestantResult, are_clustered
from asyncgen.evaluate.statistics import (
    FEWEST_CLUSTERS,
    Interval,
    bootstrap,
    holm,
    newcombe,
    paired_counts,
    sign_test,
    units_needed,
)
from asyncgen.generate.plan.costs import trainings
from asyncgen.generate.plan.request_tokens import Span, measure_run, tokens_of_a_request
from asyncgen.providers.choose import named_profile
from asyncgen.terminal import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from asyncgen.evaluate.judge import JudgedPair
    from asyncgen.job.opened import OpenedJob
    from asyncgen.providers.prices import PriceList
    from asyncgen.run.directory import RunDirectory

SIGNIFICANT = 0.05
_TENS = 10


@dataclass(frozen=True, slots=True)
class PairResult:
    """Two contestants on the rows that both have answered.

    Attributes:
        a, b: their names.
        difference: share of A that passes less that of B, with its 95 % interval.
        p: of the sign test.
        p_corrected: by Holm, over all pairs shown.
        pairs: rows.
        only_a, only_b: rows on which only one of them passes.
    """

    a: str
    b: str
    difference: Interval
    p: float
    pairs: int
    only_a: int
    only_b: int
    p_corrected: float = 1.0

    @property
    def discordant(self) -> float:
        """Share of the pairs in which exactly one of the two passes, from 0 to 1."""
        return (self.only_a + self.only_b) / self.pairs if self.pairs else 0.0


def best_of(found: Sequence[ContestantResult]) -> ContestantResult:
    """The contestant with the highest pass rate; of equal ones the cheaper, then the earlier one."""
    return max(found, key=lambda each: (each.pass_rate.value, -_cost(each)))


def _cost(standing: ContestantResult) -> float:
    return float("inf") if standing.cost_usd_per_1000 is None else standing.cost_usd_per_1000


def compare_with_best(answers: Mapping[str, Answers], best: str, *, seed: int) -> list[PairResult]:
    """The best contestant against every other, the p values corrected."""
    found = [_compared(answers[best], other, seed) for name, other in answers.items() if name != best]
    corrected = holm([each.p for each in found])
    return [replace(each, p_corrected=p) for each, p in zip(found, corrected, strict=True)]


def _compared(a: Answers, b: Answers, seed: int) -> PairResult:
    shared = [name for name in a.by_row if name in b.by_row]
    ones = [a.by_row[name].passed for name in shared]
    others = [b.by_row[name].passed for name in shared]
    clusters = [a.by_row[name].row.cluster for name in shared]
    counts = paired_counts(ones, others)
    differences = [float(one) - float(other) for one, other in zip(ones, others, strict=True)]
    if are_clustered(clusters) and len(set(clusters)) >= FEWEST_CLUSTERS:
        difference, p = bootstrap(differences, clusters, seed=seed), _cluster_test(differences, clusters)
    else:
        difference, p = newcombe(counts), sign_test(counts.only_a, counts.only_b)
    names = a.entry.contestant.name, b.entry.contestant.name
    return PairResult(*names, difference, p, counts.units, counts.only_a, counts.only_b)


def _cluster_test(differences: Sequence[float], clusters: Sequence[str]) -> float:
    """The sign test over clusters, because rows of one cluster are not independent."""
    sums: dict[str, float] = {}
    for difference, cluster in zip(differences, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + difference
    return sign_test(sum(each > 0 for each in sums.values()), sum(each < 0 for each in sums.values()))


@dataclass(frozen=True, slots=True)
class Conclusion:
    """A conclusion, and the technique that it recommends.

    Attributes:
        sentence: for the reader.
        use: the recommended contestant; None if the data does not decide.
        more_rows: roughly how many more rows would show a difference as large as the margin; None if that is not the
            question.
    """

    sentence: str
    use: str | None = None
    more_rows: int | None = None


def verdict_on(found: Sequence[ContestantResult], pairs: Sequence[PairResult], margin: float, unit: str) -> Conclusion:
    """The verdict by the job's checks.

    Args:
        found: all contestants; none without an answer.
        pairs: the best against each other one.
        margin: by which a cheaper one may be worse, as a share.
        unit: what a row is called, in the plural.
    """
    best = best_of(found)
    others = {each.contestant.name: each for each in found if each is not best}
    if not pairs:
        return Conclusion(
            f"only {best.contestant.name} has answers: {_share(best)}; there is nothing to compare it with"
        )
    if best.passed == 0:
        return Conclusion("no contestant has an answer that passes: review the checks and the answers")
    near = [pair for pair in pairs if pair.difference.high <= margin and _saves(others[pair.b], best)]
    if near:
        pair = min(near, key=lambda each: (_cost(others[each.b]), -others[each.b].pass_rate.value))
        return _not_worse(pair, best, others[pair.b], margin, unit)
    runner_up = min(pairs, key=lambda each: (each.difference.value, each.p_corrected))
    open_pairs = [pair for pair in pairs if pair.p_corrected >= SIGNIFICANT]
    if not open_pairs:
        sentence = f"{_more_often(runner_up, unit)}{_cost_words(best, others[runner_up.b])}: use {runner_up.a}"
        return Conclusion(sentence, runner_up.a)
    return _inconclusive(min(open_pairs, key=lambda each: each.difference.value), margin, unit)


def verdict_by_judge(pairs: Sequence[JudgedPair], unit: str) -> Conclusion:
    """The verdict by what the judge preferred, where answers have no checks to pass."""
    if not pairs:
        return Conclusion("the contestants cannot be compared: the job has no [checks], and there is no judge")
    pair = min(pairs, key=lambda each: (each.p, -abs(each.wins - each.losses)))
    better, worse = (pair.a, pair.b) if pair.wins >= pair.losses else (pair.b, pair.a)
    wins, losses = max(pair.wins, pair.losses), min(pair.wins, pair.losses)
    rows = f"{wins} to {losses} with {pair.ties} ties, p{_p(pair.p)}"
    if pair.p < SIGNIFICANT:
        return Conclusion(f"the judge prefers {better} to {worse} ({rows}): use {better}", better)
    decided = wins + losses
    total = decided + pair.ties
    wanted = units_needed(decided / total, (wins - losses) / total) if total and wins != losses else None
    more = _missing_units(wanted, total)
    told = f"; about {more:,} more {unit} would be enough, if the difference is real" if more else ""
    return Conclusion(f"not enough data: the judge prefers {better} to {worse} {rows}{told}", None, more)


def _saves(other: ContestantResult, best: ContestantResult) -> bool:
    """True if the other one costs less per call, or the same and needs no training."""
    if other.contestant.technique != "tuned" and best.contestant.technique == "tuned" and _cost(other) <= _cost(best):
        return True
    return _cost(other) < _cost(best)


def _not_worse(
    pair: PairResult, best: ContestantResult, other: ContestantResult, margin: float, unit: str
) -> Conclusion:
    reasons = []
    if _cost(other) < _cost(best):
        reasons.append(_ratio(other, best))
    if other.contestant.technique != "tuned" and best.contestant.technique == "tuned":
        reasons.append("needs no training")
    low = -100 * pair.difference.high
    return Conclusion(
        f"{pair.b} is not worse than {pair.a} by more than {100 * margin:g} points "
        f"({-100 * pair.difference.value:+.1f}, lower end {low:+.1f}, {pair.pairs} {unit}) and "
        f"{' and '.join(reasons)}: use {pair.b}",
        pair.b,
    )


def _more_often(pair: PairResult, unit: str) -> str:
    difference = pair.difference
    how_often = f"{100 * difference.value:.1f} points more often than" if difference.value else "as often as"
    return (
        f"{pair.a} passes {how_often} {pair.b} "
        f"(95 % {100 * difference.low:.1f}..{100 * difference.high:.1f}, {pair.pairs} {unit}, p{_p(pair.p_corrected)})"
    )


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"={value:.3f}"  # noqa: PLR2004 - three digits are shown


def _cost_words(best: ContestantResult, other: ContestantResult) -> str:
    if best.cost_usd_per_1000 is None or other.cost_usd_per_1000 is None:
        return ""
    if best.cost_usd_per_1000 == other.cost_usd_per_1000:
        return " and costs the same" if best.cost_usd_per_1000 else " and both cost nothing to call"
    return f" and {_ratio(best, other)}"


def _ratio(one: ContestantResult, other: ContestantResult) -> str:
    if not one.cost_usd_per_1000:
        return "costs nothing to call"
    if not other.cost_usd_per_1000:
        return "costs more to call"
    return f"costs {one.cost_usd_per_1000 / other.cost_usd_per_1000:.2g} of it"


def _inconclusive(pair: PairResult, margin: float, unit: str) -> Conclusion:
    detected = margin or pair.difference.value  # without a margin, the difference that was seen
    more = _missing_units(units_needed(pair.discordant, detected), pair.pairs)
    seen = _missing_units(units_needed(pair.discordant, pair.difference.value), pair.pairs)
    told = f"; about {more:,} more {unit} would show a difference of {100 * detected:g} points" if more else ""
    as_seen = f", about {seen:,} more one as large as seen" if seen and margin else ""
    return Conclusion(f"not enough data: {_more_often(pair, unit)}{told}{as_seen}", None, more)


def _missing_units(wanted: int | None, there: int) -> int | None:
    """Number of missing units, in tens; None if no number suffices."""
    return None if wanted is None else max(-(-(wanted - there) // _TENS) * _TENS, _TENS)


def _share(standing: ContestantResult) -> str:
    rate = standing.pass_rate
    return (
        f"{standing.passed} of {counted(standing.n, 'answer')} pass ({100 * rate.value:.0f} %, 95 % "
        f"{100 * rate.low:.0f}.."
        f"{100 * rate.high:.0f})"
    )


@dataclass(frozen=True, slots=True)
class TuningBreakEven:
    """The number of calls after which a tuned contestant costs less than another one.

    Attributes:
        tuned: name of the tuned one.
        other: name of the other one.
        outlay_usd: cost of the data, as it was bought, and of the training; None for an unknown price.
        calls: number of calls from which the tuned one is cheaper, lowest and highest; `math.inf` for never; None if
            unknown.
        note: additional costs of serving, and who may tune; "" for none.
    """

    tuned: str
    other: str
    outlay_usd: Span | None
    calls: Span | None
    note: str


def pays_from(
    opened: OpenedJob, directory: RunDirectory, found: Sequence[ContestantResult], prices: PriceList
) -> Iterator[TuningBreakEven]:
    """Compute the break-even of every tuned contestant against every other one.

    Args:
        opened: the run's job.
        directory: of the run: what its data has cost, and the tokens of its rows.
        found: the figures of all contestants.
        prices: for the training.
    """
    tuned = [each for each in found if each.contestant.technique == "tuned" and each.n]
    if not tuned:
        return
    tokens = tokens_of_a_request(opened.job, opened.grid, measure_run(directory, opened.grid))
    profile = named_profile(opened.tuning, opened.file.profiles)
    training = next(
        iter(trainings(lambda _: opened.job, opened.grid.count, tokens, prices, chosen=profile, within_reach=())), None
    )
    spent_usd = directory.read_state().spend.cost_usd
    outlay = None
    if training is not None and training.cost_usd is not None:
        outlay = Span(spent_usd, spent_usd) + training.cost_usd
    for one in tuned:
        for other in found:
            if other.n and other.contestant.technique != "tuned":
                note = training.note if training is not None else ""
                yield TuningBreakEven(
                    one.contestant.name, other.contestant.name, outlay, _calls(one, other, outlay), note
                )


def _calls(tuned: ContestantResult, other: ContestantResult, outlay: Span | None) -> Span | None:
    if outlay is None or tuned.cost_usd_per_1000 is None or other.cost_usd_per_1000 is None:
        return None
    saved = (other.cost_usd_per_1000 - tuned.cost_usd_per_1000) / 1000
    if saved <= 0:
        return Span(0, 0) if not outlay.high and not saved else Span(math.inf, math.inf)
    return Span(math.ceil(outlay.low / saved), math.ceil(outlay.high / saved))
