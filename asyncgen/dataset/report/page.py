"""A report as one HTML page that needs nothing else: no script, no font, no picture from anywhere.

Owns the page. Everything that comes from the run, such as the models' own words, is escaped; a content policy in the
page forbids whatever might slip through.
"""

from __future__ import annotations

from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from asyncgen.dataset.report.charts import bars, columns, stacked_bars
from asyncgen.terminal import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from asyncgen.dataset.histogram import Histogram
    from asyncgen.dataset.report.collect import Report
    from asyncgen.dataset.report.coverage import Axis, Coverage

_FATES = ("filled", "rejected", "refused", "failed", "left", "stale")
_MOST_BARS = 40
_MOST_COLUMNS = 48


def report_page(report: Report) -> str:
    """The page as text."""
    style = resources.files("asyncgen.dataset.report").joinpath("page.css").read_text(encoding="utf-8")
    title = f"{clean(report.job)}: report"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body>\n"
        + "\n".join(_sections(report))
        + "\n</body></html>\n"
    )


def _sections(report: Report) -> Iterator[str]:
    yield f"<h1>{_safe(report.job)}</h1>"
    models = ", ".join(_safe(model) for model, _ in report.models.most_common()) or "nobody yet"
    yield f'<p class="soft">{_safe(str(report.run))}, answered by {models}</p>'
    yield _tiles(report)
    yield "<h2>Coverage</h2>" + _key()
    for axis in report.axes:
        yield f"<h3>{_safe(axis.name)}</h3>" + _axis(axis)
    yield from _counted("Answers that cannot be samples", report.rejected)
    yield from _counted("Checks not passed", report.checks)
    yield from _counted("Rows given up on", report.failures)
    yield from _counted("How answers ended", report.finish_reasons)
    if report.words.counts:
        yield "<h2>Length</h2>" + _lengths("Words in an answer", report.words, "words")
        yield _lengths("Characters in an answer", report.characters, "characters")
        yield "<h2>Words</h2>" + _diversity(report)
        yield bars("The commonest openings", report.openings)
    if report.latency_ms.counts:
        yield "<h2>Time to answer</h2>" + _lengths("Milliseconds to the whole answer", report.latency_ms, "ms")
    yield "<h2>Tokens and cost</h2>" + _spend(report)


def _safe(text: str) -> str:
    return escape(clean(text))


def _tiles(report: Report) -> str:
    coverage = report.coverage
    tiles = [
        ("rows asked for", coverage.requested),
        ("usable answers", coverage.filled),
        ("holes", coverage.holes),
        ("duplicates", report.duplicates),
        ("near-duplicates", report.near_duplicates),
        ("stale", coverage.stale),
    ]
    cells = "".join(f'<div class="tile"><b>{number or 0:,}</b>{name}</div>' for name, number in tiles)
    return f'<div class="tiles">{cells}</div>'


def _key() -> str:
    return '<p class="key">' + "".join(f'<span><i class="i-{fate}"></i>{fate}</span>' for fate in _FATES) + "</p>"


def _axis(axis: Axis) -> str:
    if axis.values is None:
        return '<p class="soft">too many values to show</p>'
    shown = sorted(axis.values.items(), key=lambda item: -item[1].holes)[:_MOST_BARS]
    kept = {value for value, _ in shown}
    rows = [
        (value, list(_numbers(coverage).items()), _filled_of(coverage))
        for value, coverage in axis.values.items()
        if value in kept
    ]
    hidden = len(axis.values) - len(rows)
    note = f'<p class="soft">the {len(rows)} values with the most holes; {hidden:,} more</p>' if hidden else ""
    return stacked_bars(f"Coverage by {axis.name}", rows) + note + _table(axis.values)


def _numbers(coverage: Coverage) -> dict[str, int]:
    return {fate: getattr(coverage, fate) or 0 for fate in _FATES}


def _filled_of(coverage: Coverage) -> str:
    return f"{coverage.filled:,}" if coverage.requested is None else f"{coverage.filled:,} of {coverage.requested:,}"


def _table(values: Mapping[str, Coverage]) -> str:
    head = "".join(f"<th>{fate}</th>" for fate in _FATES)
    rows = "".join(
        f"<tr><td>{_safe(value)}</td>"
        + "".join(f"<td>{number:,}</td>" for number in _numbers(coverage).values())
        + "</tr>"
        for value, coverage in values.items()
    )
    return f"<details><summary>figures</summary><table><tr><th></th>{head}</tr>{rows}</table></details>"


def _counted(title: str, counts: Mapping[str, int]) -> Iterable[str]:
    if counts:
        rows = sorted(counts.items(), key=lambda item: -item[1])[:_MOST_BARS]
        yield f"<h2>{title}</h2>" + bars(title, rows)


def _lengths(title: str, histogram: Histogram, unit: str) -> str:
    summary = histogram.summary()
    return (
        f'<h3>{title}</h3><p class="soft">{summary.smallest:,} to {summary.largest:,}, mean {summary.mean:,.1f}, '
        f"median {summary.median:,}; nine of ten from {summary.low:,} to {summary.high:,}</p>"
        + columns(title, histogram.bins(_MOST_COLUMNS), unit)
    )


def _diversity(report: Report) -> str:
    one, two, three = report.diversity.distinct
    return (
        f"<p>Of all words {one:.1%} are different ones, of pairs of words {two:.1%}, of triples {three:.1%} "
        f'<span class="soft">(in {report.diversity.answers:,} answers)</span>.</p><h3>How answers begin</h3>'
    )


def _spend(report: Report) -> str:
    usage = report.usage
    unpriced = f", and {report.unpriced:,} answers of unknown price" if report.unpriced else ""
    return (
        f"<p>{usage.prompt_tokens:,} prompt tokens, {usage.cached_tokens:,} of them cached; "
        f"{usage.completion_tokens:,} completion tokens, {usage.reasoning_tokens:,} of them reasoning; "
        f"{report.cost_usd:,.4f} USD{unpriced}.</p>"
    )
