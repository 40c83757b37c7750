"""`asyncgen evaluate`: models and prompting techniques compared on rows held out, as a table or as blocks.

The figures are made in `evaluate`.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asyncgen.cli.options import (
    api_key_file_option,
    base_url_option,
    limit_options,
    output_options,
    retry_failed_option,
    run_argument,
    yes_option,
)
from asyncgen.cli.output import json_result, result, say, table
from asyncgen.job.answers import short_reasons
from asyncgen.terminal import counted, one_line, usd

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asyncgen.evaluate.judge import JudgedPair, Judging
    from asyncgen.evaluate.measures import ContestantResult
    from asyncgen.evaluate.result import Agreement, Evaluation
    from asyncgen.evaluate.small import Comparison
    from asyncgen.evaluate.statistics import Interval
    from asyncgen.evaluate.verdict import PairResult, TuningBreakEven


_HEADERS = (
    "contestant", "model", "answers", "pass", "95 %", "values named", "words", "copied", "tokens in/out",
    "seconds p50/p95", "per 1,000",
)  # fmt: skip
_MOST_VALUES = 20
_MODEL_WIDTH = 34
_ANSWER_WIDTH = 240
_SIDE_BY_SIDE = 3  # rows shown; the figures count all


def evaluation_lines(evaluation: Evaluation, agreement: Agreement | None) -> Iterator[str]:
    """Lines with the figures, their limitations, and the verdict last."""
    values = counted(evaluation.clusters, "value")
    of_clusters = f", {values} of {evaluation.cluster_name}" if evaluation.cluster_name else ""
    yield f"{counted(evaluation.rows, 'prompt')}, {evaluation.source}{of_clusters}"
    yield ""
    yield from _figures([_cells(each) for each in evaluation.contestants])
    yield from _diversity_lines(evaluation.contestants)
    yield from _failing(evaluation.contestants)
    if evaluation.cluster_name:
        yield from _by_value(evaluation)
    yield ""
    for pair in evaluation.comparisons:
        yield _pair_line(pair)
    if evaluation.judging is not None:
        yield from _judge_lines(evaluation.judging)
    if agreement is not None:
        yield _votes_line(agreement)
    for pays in evaluation.pays:
        yield from _pays_line(pays)
    for note in evaluation.notes:
        yield f"note: {note}"
    yield f"full results: {evaluation.path}" + (f", {usd(evaluation.cost_usd)}" if evaluation.cost_usd else "")
    yield ""
    yield evaluation.sentence


def small_lines(found: Comparison) -> Iterator[str]:
    """Lines with base and tuned model side by side, for the end of `run`."""
    for row in found.rows[:_SIDE_BY_SIDE]:
        yield row.prompt
        answers = [("before", row.base, row.base_passed)] if found.base is not None else []
        for label, text, passed in (*answers, ("after", row.tuned, row.tuned_passed)):
            fails = "" if passed else "  [fails a check]"
            yield f"  {label:<6}  {one_line(text, _ANSWER_WIDTH) or '(no answer)'}{fails}"
    counts = f"{found.tuned.passed} of {found.tuned.n} after"
    if found.base is not None:
        counts = f"{found.base.passed} of {found.base.n} before, {counts}"
    yield f"usable answers: {counts}"


def _figures(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table; a block per contestant if it is wider than the terminal."""
    shown = [column for column in range(len(_HEADERS)) if column == 0 or any(row[column] for row in rows)]
    headers = [_HEADERS[column] for column in shown]
    cells = [[row[column] for column in shown] for row in rows]
    lines = list(table(headers, cells))
    if max(map(len, lines)) <= shutil.get_terminal_size((100, 24)).columns:
        yield from lines
        return
    width = max(map(len, headers))
    for row in cells:
        yield row[0]
        for header, cell in zip(headers[1:], row[1:], strict=True):
            if cell:
                yield f"  {header:<{width}}  {cell}"


def _cells(standing: ContestantResult) -> list[str]:
    contestant, rate = standing.contestant, standing.pass_rate
    model = contestant.model if len(contestant.model) <= _MODEL_WIDTH else contestant.model[: _MODEL_WIDTH - 1] + "…"
    if not standing.n:
        return [contestant.name, model, "0", *[""] * (len(_HEADERS) - 3)]
    cost = standing.cost_usd_per_1000
    return [
        contestant.name,
        model,
        f"{standing.n:,}",
        f"{100 * rate.value:.0f} %",
        f"{100 * rate.low:.0f}..{100 * rate.high:.0f}",
        _percent(standing.mentions),
        f"{standing.words.value:.0f}" if standing.words else "",
        _copied(standing),
        f"{standing.tokens_in:,.0f}/{standing.tokens_out:,.0f}" if standing.tokens_in or standing.tokens_out else "",
        _seconds(standing),
        "" if cost is None else usd(cost),
    ]


def _percent(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{100 * interval.value:.0f} % ({100 * interval.low:.0f}..{100 * interval.high:.0f})"


def _copied(standing: ContestantResult) -> str:
    """The share of answers that repeat a training sample, and how much that is above the held-out samples'."""
    if standing.copied is None:
        return ""
    beyond = "" if standing.copied_beyond is None else f" ({100 * standing.copied_beyond:+.0f})"
    return f"{100 * standing.copied:.0f} %{beyond}"


def _seconds(standing: ContestantResult) -> str:
    if standing.latency_p50_s is None or standing.latency_p95_s is None:
        return ""
    return f"{standing.latency_p50_s:.2g}/{standing.latency_p95_s:.2g}"


def _diversity_lines(found: Sequence[ContestantResult]) -> Iterator[str]:
    measured = [each for each in found if each.compression is not None]
    if measured:
        yield ""
        yield "diversity of each contestant's answers, over the same number of bytes:"
        rows = [
            [
                each.contestant.name,
                f"{each.compression:.2f}",
                f"{each.distinct_1 or 0:.2f}",
                f"{each.distinct_2 or 0:.2f}",
                f"{each.duplicates:,}/{each.near_duplicates:,}",
            ]
            for each in measured
        ]
        headers = ["contestant", "compression", "distinct-1", "distinct-2", "duplicates/nearly"]
        yield from (f"  {line}" for line in table(headers, rows))


def _failing(found: Sequence[ContestantResult]) -> Iterator[str]:
    for each in found:
        if each.check_failures:
            named = ", ".join(f"{count:,} {name}" for name, count in short_reasons(each.check_failures).items())
            yield f"{each.contestant.name} fails: {named}"


def _by_value(evaluation: Evaluation) -> Iterator[str]:
    values = list(dict.fromkeys(value for each in evaluation.contestants for value in each.by_value))
    if not values:
        return
    yield ""
    names = [each.contestant.name for each in evaluation.contestants]
    rows = []
    for value in values[:_MOST_VALUES]:
        counts = [each.by_value.get(value, (0, 0)) for each in evaluation.contestants]
        rows.append([value, *(f"{passed}/{n}" for passed, n in counts)])
    yield from table([f"pass, by {evaluation.cluster_name}", *names], rows)
    if len(values) > _MOST_VALUES:
        yield f"and {len(values) - _MOST_VALUES:,} more"


def _pair_line(pair: PairResult) -> str:
    difference = pair.difference
    return (
        f"{pair.a} less {pair.b}: {100 * difference.value:+.1f} points "
        f"(95 % {100 * difference.low:+.1f}..{100 * difference.high:+.1f}), "
        f"{counted(pair.only_a, 'row')} to {pair.only_b}, p={pair.p_corrected:.3f}"
    )


def _judge_lines(judging: Judging) -> Iterator[str]:
    yield f"judge {judging.judge}: each pair of answers in both orders"
    for pair in judging.pairs:
        yield f"  {_judged(pair)}"
    first = judging.first_share
    yield (
        f"  the answer in first place won {100 * first.value:.0f} % of the verdicts "
        f"(95 % {100 * first.low:.0f}..{100 * first.high:.0f}; fair is 50)"
    )
    if judging.strengths:
        ranked = sorted(judging.strengths.items(), key=lambda each: -each[1])
        yield "  strength (Bradley-Terry): " + ", ".join(f"{name} {strength:.2f}" for name, strength in ranked)


def _judged(pair: JudgedPair) -> str:
    if pair.rate is None:
        return f"{pair.a} or {pair.b}: no readable verdict ({counted(pair.unreadable, 'row')})"
    counts = (
        f"{pair.a} beats {pair.b} in {100 * pair.rate.value:.0f} % "
        f"(95 % {100 * pair.rate.low:.0f}..{100 * pair.rate.high:.0f}): "
        f"{pair.wins} won, {pair.ties} ties, {pair.losses} lost, p={pair.p:.3f}"
    )
    words = [
        counts,
        f"{100 * pair.flipped:.0f} % flipped with the order",
    ]
    if pair.length_ratio is not None:
        words.append(f"{pair.length_ratio:.2f} times as long")
    if pair.length_controlled is not None:
        words.append(f"{100 * pair.length_controlled:.0f} % at equal length")
    if pair.unreadable:
        words.append(f"{counted(pair.unreadable, 'row')} without a readable verdict")
    return "; ".join(words)


def _votes_line(agreement: Agreement) -> str:
    tally = ", ".join(f"{name} {count}" for name, count in agreement.tally.items())
    if agreement.kappa is None:
        return f"votes: {tally}"
    return (
        f"votes: {tally}; agreement with the judge on {counted(agreement.compared, 'row')}: kappa {agreement.kappa:.2f}"
    )


def _pays_line(pays: TuningBreakEven) -> Iterator[str]:
    note = f" ({pays.note})" if pays.note else ""
    if pays.calls is None or pays.outlay_usd is None or pays.outlay_usd.high == 0:
        return  # unknown, or no cost to recover
    if math.isinf(pays.calls.low):
        yield f"{pays.tuned} never pays off against {pays.other}: its calls cost as much or more{note}"
        return
    calls = f"{pays.calls.low:,.0f}"
    if pays.calls.high != pays.calls.low:
        calls += f" to {pays.calls.high:,.0f}"
    yield (
        f"{pays.tuned} pays off against {pays.other} after {calls} calls: "
        f"{usd(pays.outlay_usd.high)} for data and training{note}"
    )


_NEXT = "NAME=TECHNIQUE:PROVIDER/MODEL"


@click.command("evaluate")
@run_argument
@click.option("--contestant", "contestants", multiple=True, metavar=_NEXT,
              help="A model and its technique: zero-shot, prompt, few-shot or tuned; can be repeated.  "
              "[default: the base model, the tuned model, and the model that generated the data]")  # fmt: skip
@click.option("--axis", "axes", multiple=True, metavar="NAME=VALUE,...", help="Evaluate on values outside the grid.")
@click.option("-n", "rows", type=click.IntRange(min=1), default=100, show_default=True, help="At most N rows.")
@click.option("--k", "examples", type=click.IntRange(min=1), default=4, show_default=True,
              help="The number of examples for few-shot.")  # fmt: skip
@click.option("--nearest", is_flag=True, help="few-shot: use the samples most similar to each row.")
@click.option("--judge", metavar="PROVIDER/MODEL", help="Let this model compare the answers, in both orders.")
@click.option("--all-pairs", is_flag=True, help="The judge compares every pair of contestants.")
@click.option("--margin", "margin_points", type=click.FloatRange(min=0, max=100),
              help="By how many percentage points a cheaper contestant may be worse (non-inferiority margin).  "
              "[default: 5]")  # fmt: skip
@click.option("--seed", type=int, default=7, show_default=True, help="The seed for rows, examples and intervals.")
@click.option("--name", metavar="NAME", help="The folder of the evaluation in the run.  [default: one per settings]")
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a web page with the answers side by side."
)
@click.option("--votes", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
              help="Import the votes that the page saved.")  # fmt: skip
@base_url_option
@api_key_file_option
@limit_options
@retry_failed_option
@yes_option
@output_options
def evaluate(
    run: Path | None,
    *,
    contestants: tuple[str, ...],
    axes: tuple[str, ...],
    html: Path | None,
    votes: Path | None,
    yes: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Compare prompting techniques and tuned models on prompts that RUN's model was not trained on.

    The answers are kept in the run, under evaluations/. To continue, repeat the command; no answer is paid for twice.
    --base-url and --api-key-file apply to the provider that generated the run's data.
    """
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - as above
    from asyncgen.cli.screen import Screen  # noqa: PLC0415 - as above
    from asyncgen.evaluate.asking import AskOptions  # noqa: PLC0415 - as above
    from asyncgen.evaluate.result import as_json as as_object  # noqa: PLC0415 - as above
    from asyncgen.evaluate.result import import_votes, write_page  # noqa: PLC0415 - as above
    from asyncgen.evaluate.rows import parse_axes  # noqa: PLC0415 - as above
    from asyncgen.evaluate.session import WantedEvaluation, evaluate_run  # noqa: PLC0415 - as above
    from asyncgen.finetune.target import RUNS  # noqa: PLC0415 - as above
    from asyncgen.run.directory import find_run  # noqa: PLC0415 - as above

    directory = find_run(run, root=RUNS)
    asking = {name: options.pop(name) for name in AskOptions.__dataclass_fields__ if name in options}
    wanted = WantedEvaluation(
        contestants=contestants or None, axes=parse_axes(axes), options=AskOptions(**asking), **options
    )
    done = run_loop(evaluate_run(directory, wanted, Screen(yes=yes)))
    if done.evaluation is None:
        return done.exit_code
    evaluation = done.evaluation
    agreed = import_votes(evaluation, votes)
    if html is not None:
        write_page(evaluation, html)
        say(f"answers side by side: {html}")
    if as_json:
        json_result({**as_object(evaluation), "votes": agreed.as_json() if agreed else None})
        return done.exit_code
    for line in evaluation_lines(evaluation, agreed):
        result(line)
    return done.exit_code
