"""A report as one self-contained HTML page, with SVG charts: no script, no font, no picture from elsewhere.

Every text that comes from the run, such as a model's answer, is escaped; a content security policy in the page blocks
what might slip through. The figures are left to `collect`.
"""

from __future__ import annotations

from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from asyncgen.terminal import clean, counted, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from asyncgen.dataset.report.collect import Report
    from asyncgen.dataset.report.quality import Axis, Coverage, Quality
    from asyncgen.dataset.token_counts import Histogram


_WIDTH = 760
_LABEL_WIDTH = 220
_VALUE_WIDTH = 90
_ROW = 24
_BAR = 16
_LABEL_CHARACTERS = 28
_COLUMNS_HEIGHT = 180
_AXIS = 22


def stacked_bars(title: str, rows: Sequence[tuple[str, Sequence[tuple[str, int]], str]]) -> str:
    """One bar a row, cut into parts.

    Args:
        title: read out instead of the picture.
        rows: label; parts as class and number; a text at the right end.
    """
    most = max((sum(number for _, number in parts) for _, parts, _ in rows), default=0) or 1
    room = _WIDTH - _LABEL_WIDTH - _VALUE_WIDTH
    body = "".join(
        _row_of(place, label, list(_parts(place, parts, room / most)), value)
        for place, (label, parts, value) in enumerate(rows)
    )
    return _svg(title, _WIDTH, len(rows) * _ROW, body)


def bars(title: str, rows: Sequence[tuple[str, int]]) -> str:
    """One bar a row, with its number."""
    return stacked_bars(title, [(label, [("plain", number)], f"{number:,}") for label, number in rows])


def columns(title: str, bins: Sequence[tuple[int, int, int]], unit: str) -> str:
    """A histogram: first and last number of each bin, and how many came."""
    most = max((count for _, _, count in bins), default=0) or 1
    width = (_WIDTH - 2) / max(len(bins), 1)
    body = "".join(
        _column(place * width + 1, width, count / most, f"{_span(first, last)} {unit}: {count:,}")
        for place, (first, last, count) in enumerate(bins)
    )
    if bins:
        foot = _COLUMNS_HEIGHT + 16
        body += _text(1, foot, f"{bins[0][0]:,}", "axis")
        body += _text(_WIDTH - 1, foot, f"{bins[-1][1]:,} {unit}", "axis end")
    return _svg(title, _WIDTH, _COLUMNS_HEIGHT + _AXIS, body)


def _parts(place: int, parts: Sequence[tuple[str, int]], scale: float) -> Iterator[str]:
    left = float(_LABEL_WIDTH)
    for name, number in parts:
        if number:
            width = number * scale
            yield (
                f'<rect class="{name}" x="{left:.1f}" y="{place * _ROW + 4}" width="{max(width, 1):.1f}" '
                f'height="{_BAR}"><title>{escape(name)}: {number:,}</title></rect>'
            )
            left += width


def _row_of(place: int, label: str, parts: Sequence[str], value: str) -> str:
    baseline = place * _ROW + _BAR
    shown = one_line(label, _LABEL_CHARACTERS) or "(empty)"
    return (
        _text(_LABEL_WIDTH - 8, baseline, shown, "label end")
        + "".join(parts)
        + _text(_WIDTH, baseline, value, "value end")
    )


def _column(left: float, width: float, part: float, title: str) -> str:
    height = part * _COLUMNS_HEIGHT
    return (
        f'<rect class="plain" x="{left:.1f}" y="{_COLUMNS_HEIGHT - height:.1f}" width="{max(width - 1, 1):.1f}" '
        f'height="{height:.1f}"><title>{escape(title)}</title></rect>'
    )


def _span(first: int, last: int) -> str:
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


def _text(x: float, y: float, text: str, classes: str) -> str:
    return f'<text class="{classes}" x="{x:.0f}" y="{y:.0f}">{escape(text)}</text>'


def _svg(title: str, width: int, height: int, body: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg">{body}</svg>'
    )


_FATES = ("filled", "rejected", "refused", "failed", "left", "stale")
_MOST_BARS = 40
_MOST_COLUMNS = 48


def report_page(report: Report) -> str:
    """Render a report as one HTML page without scripts and external files.

    Args:
        report: of a run.

    Returns:
        The page.
    """
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
    models = ", ".join(_safe(model) for model, _ in report.models.most_common()) or "no model yet"
    yield f'<p class="soft">{_safe(str(report.run))}, answered by {models}</p>'
    yield _tiles(report)
    yield "<h2>Coverage</h2>" + _key()
    for axis in report.axes:
        yield f"<h3>{_safe(axis.name)}</h3>" + _axis(axis)
    yield from _counted("Rejected answers", report.rejected)
    yield from _counted("Failed checks", report.checks)
    yield from _counted("Failed rows", report.failures)
    yield from _counted("Finish reasons", report.finish_reasons)
    if report.words.counts:
        yield "<h2>Length</h2>" + _lengths("Words in an answer", report.words, "words")
        yield _lengths("Characters in an answer", report.characters, "characters")
        yield "<h2>Words</h2>" + _diversity(report)
        yield bars("The most common first words", report.openings)
    if report.quality.samples:
        yield from _quality(report.quality)
    if report.latency_ms.counts:
        yield "<h2>Latency</h2>" + _lengths("Milliseconds to the complete answer", report.latency_ms, "ms")
    yield "<h2>Tokens and cost</h2>" + _spend(report)


def _safe(text: str) -> str:
    return escape(clean(text))


def _tiles(report: Report) -> str:
    coverage = report.coverage
    tiles = [
        ("rows", coverage.requested),
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
    note = (
        f'<p class="soft">the {counted(len(rows), "value")} with the most missing rows; {hidden:,} more</p>'
        if hidden
        else ""
    )
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
        f"median {summary.median:,}; 90 % between {summary.low:,} and {summary.high:,}</p>"
        + columns(title, histogram.bins(_MOST_COLUMNS), unit)
    )


def _diversity(report: Report) -> str:
    one, two, three = report.diversity.distinct
    answers = counted(report.diversity.answers, "answer")
    return (
        f"<p>Distinct words: {one:.1%}, word pairs: {two:.1%}, word triples: {three:.1%} "
        f'<span class="soft">(in {answers})</span>.</p><h3>First words of answers</h3>'
    )


def _quality(quality: Quality) -> Iterator[str]:
    if quality.simulated:
        yield f"<p><strong>{quality.simulated:,} of these answers are simulated.</strong></p>"
    copies = ", ".join(f"{share:.0%} from the {name}" for name, share in quality.copies.items())
    yield (
        f"<h2>Repetition and leakage</h2><p>With the values of the axes masked, {quality.template_duplicates:,} of "
        f"{counted(quality.samples, 'answer is a duplicate', 'answers are duplicates')}, and "
        f"{quality.near_templates:,} of {quality.sampled:,} near-duplicates. "
        f"{quality.trained_on:,} of "
        f"{counted(quality.validation_prompts, 'validation prompt is', 'validation prompts are')} trained on; "
        f"{counted(quality.leaked_answers, 'answer is', 'answers are')} nearly the same as one in the other file. "
        "8-word overlaps: "
        f"{copies}.</p>"
    )
    if quality.template:
        yield f"<p>The most common one, {quality.template_answers:,} times:</p>"
        yield f"<blockquote>{_safe(quality.template)}</blockquote>"
    if quality.empty_pairs:
        pairs = "; ".join(map(_safe, quality.empty_pairs[:_MOST_BARS]))
        yield f"<p>{counted(len(quality.empty_pairs), 'pair')} of values have no usable answer: {pairs}</p>"
    rows = [("all", quality.overall)]
    rows += [(f"{name}={value}", found) for name, values in quality.by_value.items() for value, found in values.items()]
    body = "".join(
        f"<tr><td>{_safe(label)}</td><td>{found.answers:,}</td><td>{found.distinct[0]:.0%}</td>"
        f"<td>{found.distinct[1]:.0%}</td><td>{found.compressed:.2f}</td>"
        f"<td>{_safe(', '.join(f'{name} {count}' for name, count in found.languages.items()))}</td></tr>"
        for label, found in rows
    )
    heads = ("", "answers", "different words", "different pairs", "compressed to", "languages")
    yield f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{body}</table>"
    yield "<h2>Answers to read</h2>"
    for why, text in quality.to_read:
        yield f"<h3>{why}</h3><blockquote>{_safe(text)}</blockquote>"


def _spend(report: Report) -> str:
    usage = report.usage
    unpriced = f", and {counted(report.unpriced, 'answer')} of unknown price" if report.unpriced else ""
    return (
        f"<p>{counted(usage.prompt_tokens, 'prompt token')}, {usage.cached_tokens:,} of them cached; "
        f"{counted(usage.completion_tokens, 'completion token')}, {usage.reasoning_tokens:,} of them reasoning; "
        f"{report.cost_usd:,.4f} USD{unpriced}.</p>"
    )
