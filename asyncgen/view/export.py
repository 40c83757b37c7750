"""Export the page as a folder that opens by a double click, without a server.

Writes the page's own files unchanged and a run's data as scripts, because a page of the file system may load nothing
else. Rows are in files of two hundred, loaded when they are viewed; filter values are in columns. An export is
read-only and sends nothing.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from asyncgen import __version__
from asyncgen.errors import UsageError
from asyncgen.run.whole_file import as_disk_error
from asyncgen.view.access import CONTENT_SECURITY
from asyncgen.view.evaluations import evaluation_names, read_evaluation, shown
from asyncgen.view.index import Facet, places_in
from asyncgen.view.overview import axes, counters, heat_map, overview, training_of
from asyncgen.view.query import REVIEWS
from asyncgen.view.runs import RunView, detail

if TYPE_CHECKING:
    from asyncgen.run.directory import RunDirectory

_STATIC = Path(__file__).parent / "static"
_CHUNK = 200
_MARK = "asyncgen-export"
_AXES_PAIRED = 8  # pairs of axes that the map can show: 8 make 64 of them
_encode = msgspec.json.Encoder().encode


def export_run(directory: RunDirectory, target: Path) -> Path:
    """Write the page of a run into a folder.

    Args:
        directory: of the run.
        target: a new or empty folder, or an earlier export, which is replaced.

    Returns:
        The page to open.

    Raises:
        UsageError: the folder contains something else.
        AsyncgenError: the run cannot be read.
        DiskError: the folder cannot be written.
    """
    view = RunView(directory, directory.path.resolve().name)
    view.read_all()
    with as_disk_error(f"{target} could not be written"):
        _claim(target)
        shutil.copytree(_STATIC, target / "static")
        data = target / "data"
        data.mkdir()
        with view.in_turn():
            places = places_in(sum(view.searcher.statuses().values()))
            _write_rows(view, places, data)
            content = _encode(_run(view, places))
        (data / "run.js").write_bytes(b"window.asyncgenExport = %b;\n" % _in_script(content))
        page = target / "index.html"
        page.write_text(_page(), encoding="utf-8")
    return page


def _claim(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True, mode=0o700)  # prompts and answers may be personal data
    mark = target / _MARK
    if mark.exists():
        for name in ("static", "data"):
            shutil.rmtree(target / name, ignore_errors=True)
    elif any(target.iterdir()):
        raise UsageError(f"{target} is not empty", help_text="choose a new or an empty folder with --export")
    mark.write_text(f"asyncgen {__version__}\n", encoding="utf-8")


def _page() -> str:
    text = (_STATIC / "index.html").read_text(encoding="utf-8")
    # A page of the file system has no headers; `frame-ancestors` means nothing in a meta tag, and `'self'` is no file.
    policy = CONTENT_SECURITY.replace("; frame-ancestors 'none'", "").replace("'self'", "file:")
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    script = '<script src="data/run.js" defer></script>'
    text = text.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{meta}', 1)
    return text.replace('<script src="static/vendor.js"', f'{script}\n<script src="static/vendor.js"', 1)


def _in_script(content: bytes) -> bytes:
    """JSON as JavaScript for old parsers too: U+2028 and U+2029 are escaped, because they end a line there."""
    return content.replace("\u2028".encode(), rb"\u2028").replace("\u2029".encode(), rb"\u2029")


def _write_rows(view: RunView, places: list[int], folder: Path) -> None:
    for number, start in enumerate(range(0, len(places), _CHUNK)):
        rows = [detail(view, place) for place in places[start : start + _CHUNK]]
        script = b"asyncgenRows(%d, %b);\n" % (number, _in_script(_encode(rows)))
        (folder / f"rows-{number}.js").write_bytes(script)


def _run(view: RunView, places: list[int]) -> dict[str, Any]:
    """Everything but the rows, under the names of the server's addresses."""
    path = view.directory.path
    found = counters(view)
    return {
        "name": view.name,
        "version": __version__,
        "chunk": _CHUNK,
        "counters": {**found, "live": None, "reading": False},
        "overview": {**overview(view), "run": view.name},
        "heat": _heat_maps(view),
        "columns": _columns(view, places),
        "training": training_of(view.directory, view.state),
        "evaluations": {name: shown(read_evaluation(path, name), blind=False) for name in evaluation_names(path)},
        "runs": {"runs": [_listed(view, found)]},
    }


def _listed(view: RunView, found: dict[str, Any]) -> dict[str, Any]:
    state = view.state
    return {
        "name": view.name,
        "changed": view.directory.state.stat().st_mtime,
        "job": state.job.name,
        "model": state.job.model,
        "requests": state.job.requests,
        "records": found["counts"]["done"] + found["counts"]["rejected"],
        "cost_usd": found["spend"]["cost_usd"],
        "live": False,
        "dataset": sum(file.samples for file in state.dataset.files) if state.dataset else None,
        "tuned_model": next((job.tuned_model for job in reversed(state.finetuning) if job.tuned_model), None),
    }


def _heat_maps(view: RunView) -> dict[str, Any]:
    names = [axis["name"] for axis in axes(view)][:_AXES_PAIRED]
    single = {f"{x}|": heat_map(view, x, None) for x in names}
    return single | {f"{x}|{y}": heat_map(view, x, y) for x in names for y in names if x != y}


def _columns(view: RunView, places: list[int]) -> dict[str, Any]:
    index = view.index
    differing = index.differing()
    return {
        "keys": [index.key(place) for place in places],
        "created": [index.created[place] for place in places],
        "index": [index.indexes[place] for place in places],
        "latency": [round(index.latencies[place], 3) for place in places],
        "length": [index.lengths[place] for place in places],
        "differ": [differing >> place & 1 for place in places],
        "facets": {
            "status": _of_sets(view.searcher.statuses(), places),
            "review": _reviewed(view, places),
            **{name: _of_facet(facet, places) for name, facet in index.facets.items()},
            "check": _of_sets({name: index.checks.bits(name) for name in index.checks.names()}, places),
        },
    }


def _of_facet(facet: Facet, places: list[int]) -> dict[str, Any]:
    known = len(facet.values)
    codes = (facet.code(place) for place in places)
    return {"values": facet.values, "codes": [code if code < known else -1 for code in codes]}


def _reviewed(view: RunView, places: list[int]) -> dict[str, Any]:
    searcher = view.searcher
    rejected, seen, unseen = REVIEWS
    sets = {rejected: searcher.rejected_by_person(), seen: searcher.seen()}
    return _of_sets({**sets, unseen: ~sets[seen]}, places)


def _of_sets(sets: dict[str, int], places: list[int]) -> dict[str, Any]:
    members = [_bits(rows, len(places) and places[-1] + 1) for rows in sets.values()]
    return {"values": list(sets), "codes": [[n for n, each in enumerate(members) if each[place]] for place in places]}


def _bits(rows: int, size: int) -> bytes:
    """A set as one byte per place, which is much faster to test than the int."""
    found = bytearray(size)
    for place in places_in(rows & ((1 << size) - 1)):
        found[place] = 1
    return bytes(found)
