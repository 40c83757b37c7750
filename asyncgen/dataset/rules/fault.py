"""What is wrong with an example, and small checks that several rules share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping


class Fault(NamedTuple):
    """One thing wrong.

    Attributes:
        rule: a stable word for it.
        text: what was found and what was expected, for the user.
        fatal: a provider refuses the file for it; else it is taken, but hardly meant.
    """

    rule: str
    text: str
    fatal: bool = True


def kind(value: Any) -> str:
    """What JSON calls a value."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def unknown_keys(example: Mapping[str, Any], known: Collection[str], where: str, *, fatal: bool) -> Iterator[Fault]:
    """A fault for every key that is not `known`."""
    for key in example:
        if key not in known:
            yield Fault("unknown_key", f"{where} has the key {str(key)[:40]!r}; known are {', '.join(known)}", fatal)
