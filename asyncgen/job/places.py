"""Which line of a TOML text a key stands in, as far as a look at the text tells.

Owns that look: table headers and `key =` at the beginning of a line. The parser keeps no positions, so this is a
help for the reader of an error and never decides anything.
"""

from __future__ import annotations

import re

_HEADER = re.compile(r"\s*\[\[?\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""\s*(["']?[\w.-]+["']?)\s*=""")
_FENCE = re.compile(r'"""|\'\'\'')
_ITEM = re.compile(r"(.*)\[(\d+)\](.*)")


def line_of(text: str, key: str) -> int | None:
    """The 1-based line of a dotted key, or of the nearest table around it; None when neither is found.

    Args:
        text: the TOML document.
        key: such as `grid.city`, or `prompt.examples[2].size` for the second table of an array.
    """
    places = _places(text)
    while key:
        if key in places:
            return places[key]
        item = _ITEM.fullmatch(key)
        key = item[1] if item and not item[3] else key.rpartition(".")[0]
    return None


def _places(text: str) -> dict[str, int]:
    places: dict[str, int] = {}
    counts: dict[str, int] = {}
    table, fence = "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if fence:
            fence = "" if fence in line else fence
            continue
        if header := _HEADER.match(line):
            table = _bare(header[1])
            if line.lstrip().startswith("[["):
                counts[table] = counts.get(table, 0) + 1
                places.setdefault(table, number)
                table = f"{table}[{counts[table]}]"
            places.setdefault(table, number)
        elif key := _KEY.match(line):
            places.setdefault(f"{table}.{_bare(key[1])}".lstrip("."), number)
            fences = _FENCE.findall(line)
            fence = fences[0] if len(fences) == 1 else ""
    return places


def _bare(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))
