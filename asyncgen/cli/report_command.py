"""`asyncgen report`: what a run's answers are like, as text with small bars, or as JSON.

The figures are made in `dataset.report`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import to_builtins

from asyncgen.cli.arguments import next_command, run_directory
from asyncgen.cli.options import output_options, run_argument
from asyncgen.cli.output import json_result, result, say
from asyncgen.dataset.report.collect import Report, make_report
from asyncgen.dataset.report.page import report_page
from asyncgen.job.opened import generate_again, job_of_run
from asyncgen.run.directory import RunDirectory, output_file
from asyncgen.terminal import counted, one_line, usd

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from asyncgen.dataset.report.quality import Axis, Coverage, Quality, ValueDiversity
    from asyncgen.dataset.token_counts import Histogram


OUTCOMES = ("filled", "rejected", "refused", "failed", "left", "stale")
_BAR = 24
_LABEL = 28
_VALUES_SHOWN = 20
_ROWS_A_VALUE = 2  # on average; with fewer, the values are names, whose coverage one by one says nothing
_NO_LANGUAGE = "to detect languages: pip install 'asyncgen[language]'"
_TEXT = 300  # characters of an answer to read


def report_lines(report: Report, bar: str) -> Iterator[str]:
    """The whole report.

    Args:
        report: as it was collected.
        bar: the character that bars are made of.
    """
    coverage = report.coverage
    models = ", ".join(model for model, _ in report.models.most_common()) or "no model yet"
    yield f"{report.run}: {report.job}, answered by {models}"
    yield ""
    yield f"{'rows':<{_LABEL}} {coverage.requested or 0:,}: " + ", ".join(
        f"{number:,} {outcome}"
        for outcome, number in _numbers(coverage).items()
        if number or outcome in {"filled", "left"}
    )
    whole = [axis.name for axis in report.axes if axis.values and not any(each.holes for each in axis.values.values())]
    if whole:
        yield f"{'fully covered':<{_LABEL}} {', '.join(one_line(name, _LABEL) for name in whole)}"
    for axis in report.axes:
        if axis.name not in whole:
            yield from _axis_lines(axis, bar)
    yield from _counted("rejected", report.rejected, bar)
    yield from _counted("failed checks", report.checks, bar)
    yield from _counted("failed rows", report.failures, bar)
    yield from _counted("finish reasons", report.finish_reasons, bar)
    yield from _text_lines(report, bar)
    yield from _quality_lines(report.quality)
    yield ""
    yield from _spend_lines(report)


def _numbers(coverage: Coverage) -> dict[str, int]:
    return {outcome: getattr(coverage, outcome) or 0 for outcome in OUTCOMES}


def _axis_lines(axis: Axis, bar: str) -> Iterator[str]:
    yield ""
    if axis.values is None:
        yield f"{axis.name}: too many values to show"
        return
    rows = sum(each.filled + each.holes for each in axis.values.values())
    if len(axis.values) > _VALUES_SHOWN and rows < _ROWS_A_VALUE * len(axis.values):  # names and the like
        yield f"{axis.name}: {counted(len(axis.values), 'value')} in {counted(rows, 'row')}, too many to list"
        return
    shown = dict(sorted(axis.values.items(), key=lambda item: -item[1].holes)[:_VALUES_SHOWN])
    columns = [outcome for outcome in OUTCOMES if any(_numbers(coverage)[outcome] for coverage in axis.values.values())]
    yield f"{one_line(axis.name, _LABEL):<{_LABEL}} {'':<{_BAR}} " + "".join(f"{outcome:>10}" for outcome in columns)
    for value, coverage in axis.values.items():
        if value in shown:
            numbers = _numbers(coverage)
            figures = "".join(f"{numbers[outcome]:>10,}" for outcome in columns)
            part = coverage.filled / (coverage.filled + coverage.holes) if coverage.filled else 0.0
            yield f"{one_line(value, _LABEL):<{_LABEL}} {_bar(part, bar)} {figures}"
    if len(shown) < len(axis.values):
        yield f"({counted(len(axis.values) - len(shown), 'more value')} with fewer missing rows)"


def _bar(part: float, bar: str) -> str:
    return f"{bar * round(part * _BAR):<{_BAR}}"


def _counted(title: str, counts: Mapping[str, int], bar: str) -> Iterator[str]:
    if not counts:
        return
    most = max(counts.values())
    yield ""
    yield f"{title}:"
    for name, count in sorted(counts.items(), key=lambda item: -item[1])[:_VALUES_SHOWN]:
        yield f"{one_line(name, _LABEL):<{_LABEL}} {_bar(count / most, bar)} {count:>10,}"


def _text_lines(report: Report, bar: str) -> Iterator[str]:
    if not report.words.counts:
        return
    yield ""
    yield _length("words per answer", report.words)
    yield _length("characters", report.characters)
    yield _length("latency in ms", report.latency_ms)
    yield f"{'duplicates':<{_LABEL}} {report.duplicates:,}, and {report.near_duplicates:,} near-duplicates"
    one, two, three = report.diversity.distinct
    yield (
        f"{'distinct':<{_LABEL}} {one:.0%} of words, {two:.0%} of word pairs, {three:.0%} of word triples "
        f"(in {counted(report.diversity.answers, 'answer')})"
    )
    yield from _counted("first words of answers", dict(report.openings), bar)


def _quality_lines(quality: Quality) -> Iterator[str]:
    if not quality.samples:
        return
    yield ""
    yield (
        f"{'duplicates, values masked':<{_LABEL}} {quality.template_duplicates:,} of {quality.samples:,}, and "
        f"near-duplicates {quality.near_templates:,} of {quality.sampled:,}"
    )
    if quality.template:
        yield f"{'the most common one':<{_LABEL}} {quality.template_answers:,} x {one_line(quality.template, _TEXT)}"
    yield (
        f"{'leakage':<{_LABEL}} {quality.trained_on:,} of "
        f"{counted(quality.validation_prompts, 'validation prompt')} are in "
        f"the training data; {counted(quality.leaked_answers, 'answer')} nearly equal to an answer of the "
        "other file, values masked"
    )
    copies = ", ".join(f"{share:.0%} from the {name}" for name, share in quality.copies.items())
    yield f"{'8-word overlaps':<{_LABEL}} {copies}"
    for pair in quality.empty_pairs[:_VALUES_SHOWN]:
        yield f"{'no usable answer for':<{_LABEL}} {one_line(pair, _TEXT)}"
    if len(quality.empty_pairs) > _VALUES_SHOWN:
        yield f"({counted(len(quality.empty_pairs) - _VALUES_SHOWN, 'more pair')} of values)"
    yield from _diversity_lines(quality)
    if quality.thoughts:
        yield (
            f"{'thoughts':<{_LABEL}} {counted(quality.thoughts, 'answer begins', 'answers begin')} with "
            "the model's reasoning (such as <think>); see `reasoning` under [dataset]"
        )
    if quality.simulated:
        yield f"{'simulated answers':<{_LABEL}} {quality.simulated:,}"
    yield ""
    yield "examples to read:"
    for why, text in quality.to_read:
        yield f"{why:<{_LABEL}} {one_line(text, _TEXT)}"


def _diversity_lines(quality: Quality) -> Iterator[str]:
    yield ""
    language = "  language" if quality.overall.languages else ""
    yield f"{'':<{_LABEL}} {'answers':>9}{'words':>8}{'pairs':>8}{'compressed':>12}{language}"
    yield _diversity_line("all", quality.overall)
    for name, values in quality.by_value.items():
        for value, found in values.items():
            yield _diversity_line(f"{name}={value}", found)
    yield "words, pairs: share of distinct ones; compressed: compressed size as a share of the original"
    if not language:
        yield _NO_LANGUAGE


def _diversity_line(label: str, found: ValueDiversity) -> str:
    languages = ", ".join(f"{name} {count:,}" for name, count in list(found.languages.items())[:3])
    one, two = found.distinct
    return (
        f"{one_line(label, _LABEL):<{_LABEL}} {found.answers:>9,}{one:>8.0%}{two:>8.0%}{found.compressed:>12.2f}  "
        f"{languages}"
    ).rstrip()


def _length(title: str, histogram: Histogram) -> str:
    figures = histogram.summary()
    return (
        f"{title:<{_LABEL}} {figures.smallest:,} to {figures.largest:,}, median {figures.median:,}, "
        f"90 % between {figures.low:,} and {figures.high:,}"
    )


def _spend_lines(report: Report) -> Iterator[str]:
    usage = report.usage
    unpriced = f", and {counted(report.unpriced, 'answer')} of unknown price" if report.unpriced else ""
    yield (
        f"{'tokens':<{_LABEL}} {usage.prompt_tokens:,} prompt ({usage.cached_tokens:,} cached), "
        f"{usage.completion_tokens:,} completion ({usage.reasoning_tokens:,} reasoning)"
    )
    yield f"{'spent':<{_LABEL}} {usd(report.cost_usd)}{unpriced}"


def next_step(report: Report) -> str:
    """The command that fills the gaps, or continues if there are none."""
    coverage, run = report.coverage, report.run
    directory = RunDirectory(run)
    if coverage.left:
        return f"{generate_again(directory)}   ({counted(coverage.left, 'row')} left)"
    if coverage.failed or report.failures:
        return generate_again(directory, "--retry-failed")
    prepare = next_command("prepare", run, "--simulated" if report.quality.simulated else None)
    if coverage.rejected or coverage.refused:
        retry = generate_again(directory, "--retry-rejected")
        return f"{prepare}   (before that, to retry what was left out: {retry})"
    return prepare


def report_object(report: Report) -> dict[str, Any]:
    """The report as JSON, for `--json`."""
    usage = report.usage
    return {
        "run": str(report.run),
        "job": report.job,
        "coverage": _coverage_object(report.coverage),
        "axes": {
            axis.name: {value: _coverage_object(coverage) for value, coverage in axis.values.items()}
            if axis.values is not None
            else None
            for axis in report.axes
        },
        "rejected": dict(report.rejected),
        "checks": dict(report.checks),
        "failures": dict(report.failures),
        "finish_reasons": dict(report.finish_reasons),
        "models": dict(report.models),
        "duplicates": report.duplicates,
        "near_duplicates": report.near_duplicates,
        "words": _length_object(report.words),
        "characters": _length_object(report.characters),
        "latency_ms": _length_object(report.latency_ms),
        "openings": [{"words": words, "answers": answers} for words, answers in report.openings],
        "distinct": dict(zip(("1", "2", "3"), report.diversity.distinct, strict=True)),
        "distinct_of_answers": report.diversity.answers,
        "quality": to_builtins(report.quality),
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
        },
        "cost_usd": report.cost_usd,
        "unpriced": report.unpriced,
    }


def _coverage_object(coverage: Coverage) -> dict[str, int | None]:
    return {"requested": coverage.requested} | {outcome: getattr(coverage, outcome) for outcome in OUTCOMES}


def _length_object(histogram: Histogram) -> dict[str, float]:
    figures = histogram.summary()
    return {
        "count": figures.count,
        "min": figures.smallest,
        "p5": figures.low,
        "median": figures.median,
        "p95": figures.high,
        "max": figures.largest,
        "mean": round(figures.mean, 2),
    }


@click.command("report")
@run_argument
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the report as a web page with charts.",
)
@output_options
def report(run: Path | None, html: Path | None, as_json: bool) -> None:
    """Report on the answers of RUN: coverage by axis, lengths, duplicates, openings, checks, cost.

    Reads only; works during a run.
    """
    directory = run_directory(run)
    opened = job_of_run(directory)
    made = make_report(directory, opened.job, opened.grid)
    if html is not None:
        _write_page(html, made)
    if as_json:
        json_result(report_object(made) | {"html": str(html) if html else None})
        return
    if html is None:
        for line in report_lines(made, _bar_character()):
            result(line)
    say(f"next: {next_step(made)}")


def _write_page(path: Path, made: Report) -> None:
    with output_file(path) as file:
        file.write(report_page(made).encode())
    result(str(path))


def _bar_character() -> str:
    """A block, where stdout can show one."""
    try:
        "█".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#"
    return "█"
