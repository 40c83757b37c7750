"""Made-up text and JSON: words drawn by a hash, and a valid value of a JSON schema.

The same question gives the same text on every server; a repeated question gets another one, as from a model that
samples, independent of what else was asked. Keywords of a schema that cannot be constructed (`not`, `if`,
`uniqueItems`, `oneOf`) are tried with other draws until the value is valid, and refused if none is.
"""

from __future__ import annotations

import json
import math
import random
from collections import OrderedDict
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from asyncgen.providers.tokens import estimate_messages, estimate_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import jsonschema_rs

    from asyncgen.serve.engine import ChatTurn, ModelCall


WORDS = (
    "amber",
    "basin",
    "birch",
    "bright",
    "calm",
    "canal",
    "cedar",
    "chalk",
    "clear",
    "cliff",
    "cloud",
    "coral",
    "crisp",
    "dawn",
    "delta",
    "dune",
    "early",
    "ember",
    "fair",
    "fern",
    "field",
    "firm",
    "fjord",
    "flint",
    "gentle",
    "glade",
    "glow",
    "grain",
    "grand",
    "grove",
    "harbour",
    "hazel",
    "heath",
    "hill",
    "honest",
    "ivory",
    "jade",
    "juniper",
    "keen",
    "lake",
    "lantern",
    "light",
    "linen",
    "maple",
    "marble",
    "meadow",
    "mild",
    "misty",
    "moss",
    "noble",
    "oak",
    "olive",
    "pearl",
    "pebble",
    "pine",
    "plain",
    "quartz",
    "quiet",
    "reed",
    "ridge",
    "river",
    "silver",
    "stone",
    "willow",
)
_MASK = len(WORDS) - 1  # 64 words, so that six bits of the hash choose one
_BYTES_PER_TOKEN = 4  # as in asyncgen.providers.tokens
_REMEMBERED = 65_536


class Repetitions:
    """Counts how often each of the most recent requests was repeated; memory is bounded."""

    def __init__(self, most: int = _REMEMBERED) -> None:
        self._most = most
        self._asked: OrderedDict[bytes, int] = OrderedDict()

    def count(self, question: bytes) -> int:
        """Return how often the request came before, and count it."""
        before = self._asked.pop(question, 0)
        self._asked[question] = before + 1
        if len(self._asked) > self._most:
            self._asked.popitem(last=False)
        return before


def digest_of(call: ModelCall) -> bytes:
    """A hash that identifies a request: model, texts, and the seed if there is one."""
    texts = [turn.text + _calls_in(turn) for turn in call.messages] if call.messages else [call.prompt]
    parts = "\x1e".join([call.model, str(call.sampling.get("seed", "")), *texts])
    return blake2b(parts.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _calls_in(turn: ChatTurn) -> str:
    return "\x1d".join(f"{call['function']}" for call in turn.rest.get("tool_calls", ()))


def simulated_text(digest: bytes, repetition: int, choice: int) -> str:
    """A sentence of 13 words; the repetition and the choice vary it."""
    seed = digest if not (repetition or choice) else _varied(digest, repetition, choice)
    return "Simulated text " + " ".join([WORDS[byte & _MASK] for byte in seed[:11]]) + "."


def cut(text: str, stop: tuple[str, ...], max_tokens: int | None) -> tuple[str, str]:
    """Cut a text at the first stop or the token limit, and return it with its finish reason."""
    ends = [place for place in (text.find(mark) for mark in stop) if place >= 0]
    if ends:
        text = text[: min(ends)]
    if max_tokens is not None and estimate_text(text) > max_tokens:
        shortened = text.encode("utf-8")[: max_tokens * _BYTES_PER_TOKEN]
        return shortened.decode("utf-8", "ignore"), "length"
    return text, "stop"


def prompt_tokens(call: ModelCall) -> int:
    """Estimate the tokens of a prompt, in place of a tokenizer."""
    if call.messages is None:
        return estimate_text(call.prompt)
    written = estimate_messages(turn.text + _calls_in(turn) for turn in call.messages)
    return written + (estimate_text(json.dumps(list(call.tools))) if call.tools else 0)


def _varied(digest: bytes, repetition: int, choice: int) -> bytes:
    return blake2b(b"%b %d %d" % (digest, repetition, choice), digest_size=16).digest()


_TRIES = 50
_SHALLOW = 3  # below this depth optional parts are left out
_DEEPEST = 60
_MOST_ITEMS = 3
_LARGEST = 10_000
_SPAN = 100
_FORMATS = {
    "date-time": "2026-0{0}-1{0}T0{0}:3{0}:00Z",
    "date": "2026-0{0}-1{0}",
    "time": "0{0}:3{0}:00Z",
    "duration": "P{0}D",
    "email": "simulated{0}@example.com",
    "hostname": "simulated{0}.example.com",
    "ipv4": "192.0.2.{0}",
    "ipv6": "2001:db8::{0}",
    "uuid": "00000000-0000-4000-8000-00000000000{0}",
    "uri": "https://example.com/simulated/{0}",
}
_KEYWORDS_OF = {
    "object": ("properties", "required", "additionalProperties", "minProperties"),
    "array": ("items", "prefixItems", "minItems"),
    "number": ("minimum", "maximum", "multipleOf"),
}


class UnfitSchemaError(ValueError):
    """No value of this schema can be generated; the message says why."""


def simulated_value(schema: Any, seed: bytes) -> Any:
    """A value that is valid by the schema.

    Raises:
        UnfitSchemaError: it is not a schema, or none of the values that were tried is valid.
    """
    validator = _validator(json.dumps(schema, sort_keys=True))
    rng = random.Random(seed)  # noqa: S311 - answers, not secrets
    for _ in range(_TRIES):
        value = _ValueGenerator(schema, rng).value(schema, "text", 0)
        if validator.is_valid(value):
            return value
    raise UnfitSchemaError("the simulation found no valid value for it")


@lru_cache(maxsize=256)
def _validator(schema: str) -> jsonschema_rs.Validator:
    import jsonschema_rs  # noqa: PLC0415 - native, and only for requests with a schema

    try:
        return jsonschema_rs.validator_for(schema)
    except (jsonschema_rs.ValidationError, ValueError) as error:
        raise UnfitSchemaError(f"it is not a JSON schema: {error}".splitlines()[0]) from error


class _ValueGenerator:
    """Generates a value of a JSON schema.

    Args:
        root: what `#/...` leads into.
        rng: decides what the schema leaves open.
    """

    def __init__(self, root: Any, rng: random.Random) -> None:
        self._root = root
        self._rng = rng

    def value(self, schema: Any, name: str, depth: int) -> Any:
        """One for a property, or an item, of this name."""
        if depth > _DEEPEST:
            raise UnfitSchemaError("it has no finite value")
        if schema is False:
            raise UnfitSchemaError("it allows no value in one place")
        rules = self._flat(schema, depth) if isinstance(schema, dict) else {}
        if max(rules.get(least, 0) for least in ("minItems", "minLength", "minProperties")) > _LARGEST:
            raise UnfitSchemaError(f"it requires more than {_LARGEST} items or characters")
        if "const" in rules:
            return rules["const"]
        if rules.get("enum"):
            return self._rng.choice(rules["enum"])
        makers: dict[str, Callable[[], Any]] = {
            "object": lambda: self._object(rules, depth),
            "array": lambda: self._array(rules, name, depth),
            "integer": lambda: int(self._number(rules, whole=True)),
            "number": lambda: self._number(rules, whole=False),
            "boolean": lambda: self._rng.choice([True, False]),
            "null": lambda: None,
        }
        make = makers.get(self._kind(rules))
        return make() if make else self._string(rules, name)

    def _flat(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        """The schema with `$ref`, `allOf`, `anyOf` and `oneOf` resolved."""
        rules = {name: rule for name, rule in schema.items() if name not in {"$ref", "allOf", "anyOf", "oneOf"}}
        added = list(schema.get("allOf", ()))
        if "$ref" in schema:
            added.append(self._target(schema["$ref"]))
        added += [self._option(schema[name], depth) for name in ("anyOf", "oneOf") if schema.get(name)]
        if depth + len(added) > _DEEPEST:
            raise UnfitSchemaError("it has no finite value")
        for other in added:
            if isinstance(other, dict):
                rules = _merged(rules, self._flat(other, depth + 1))
        return rules

    def _option(self, options: list[Any], depth: int) -> Any:
        if depth > _SHALLOW:  # deep in a value, the option that ends it soonest
            return min(options, key=lambda option: len(json.dumps(option)) + 1000 * ("$ref" in str(option)))
        return self._rng.choice(options)

    def _target(self, reference: Any) -> Any:
        place = self._root
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise UnfitSchemaError(f"it refers to {reference!r}; only references within the schema are supported")
        for step in (part.replace("~1", "/").replace("~0", "~") for part in reference[1:].split("/")[1:]):
            try:
                place = place[int(step)] if isinstance(place, list) else place[step]
            except (KeyError, IndexError, ValueError, TypeError):
                raise UnfitSchemaError(f"it refers to {reference!r}, which is not in it") from None
        return place

    def _kind(self, rules: Mapping[str, Any]) -> str:
        kinds = rules.get("type")
        if isinstance(kinds, list) and kinds:
            return str(self._rng.choice([kind for kind in kinds if kind != "null"] or kinds))
        if isinstance(kinds, str):
            return kinds
        return next((kind for kind, names in _KEYWORDS_OF.items() if any(name in rules for name in names)), "string")

    def _object(self, rules: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties: Mapping[str, Any] = rules.get("properties", {})
        required = rules.get("required", [])
        wanted = [name for name in properties if name in required or depth < _SHALLOW]
        wanted += [name for name in required if name not in properties]
        others = rules.get("additionalProperties", not properties)
        if others is not False and others is not None:
            fewest = max(rules.get("minProperties", 0), 2 if isinstance(others, dict) and not properties else 0)
            wanted += [word for word in self._words(fewest) if word not in wanted][: max(0, fewest - len(wanted))]
        return {name: self.value(properties.get(name, others), name, depth + 1) for name in wanted}

    def _array(self, rules: Mapping[str, Any], name: str, depth: int) -> list[Any]:
        first: list[Any] = rules.get("prefixItems", [])
        least = rules.get("minItems", 0 if depth > _SHALLOW else 1)
        most = max(least, min(rules.get("maxItems", math.inf), max(_MOST_ITEMS, least)))
        count = least if depth > _SHALLOW else self._rng.randint(least, int(most))
        rest = rules.get("items", not first)
        if rest is False:
            count = min(count, len(first))
        singular = name.removesuffix("s")
        values: list[Any] = []
        for place in range(count):
            schema = first[place] if place < len(first) else rest
            values.append(self.value(schema, singular, depth + 1))
        if rules.get("uniqueItems"):
            values = [value for place, value in enumerate(values) if value not in values[:place]]
        return values

    def _number(self, rules: Mapping[str, Any], *, whole: bool) -> float:
        step = rules.get("multipleOf") or (1 if whole else 0.01)
        low = max(rules.get("minimum", -math.inf), rules.get("exclusiveMinimum", -math.inf))
        high = min(rules.get("maximum", math.inf), rules.get("exclusiveMaximum", math.inf))
        if low == -math.inf:
            low = min(0, high - _SPAN) if high < math.inf else 0
        if high == math.inf:
            high = low + _SPAN * step
        first, last = math.ceil(low / step), math.floor(high / step)
        first += first * step == rules.get("exclusiveMinimum")
        last -= last * step == rules.get("exclusiveMaximum")
        value = self._rng.randint(first, max(first, last)) * step
        return value if whole or isinstance(value, int) else round(value, 10)

    def _string(self, rules: Mapping[str, Any], name: str) -> str:
        if pattern := rules.get("pattern"):
            return self._by_pattern(pattern)
        if form := _FORMATS.get(rules.get("format", "")):
            return form.format(self._rng.randint(1, 9))
        least, most = rules.get("minLength", 0), rules.get("maxLength", math.inf)
        text = f"Simulated {name} {' '.join(self._words(3))}"
        while len(text) < least:
            text += " " + self._rng.choice(WORDS)
        return text if len(text) <= most else text[: int(most)]

    def _by_pattern(self, pattern: str) -> str:
        import rstr  # noqa: PLC0415 - only for schemas with a pattern

        try:
            return str(rstr.Rstr(self._rng).xeger(pattern))
        except Exception as error:  # the parser of `re` raises many kinds
            raise UnfitSchemaError(f"no text can be generated for the pattern {pattern!r}") from error

    def _words(self, count: int) -> list[str]:
        return self._rng.sample(WORDS, min(count, len(WORDS)))


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A schema that satisfies both, as far as its keywords allow."""
    both = {**one, **other}
    for name in one.keys() & other.keys():
        mine, theirs = one[name], other[name]
        if name == "properties":
            shared = {key: {"allOf": [mine[key], theirs[key]]} for key in mine.keys() & theirs.keys()}
            both[name] = {**mine, **theirs, **shared}
        elif name == "required":
            both[name] = [*mine, *(key for key in theirs if key not in mine)]
        elif name == "enum":
            both[name] = [value for value in mine if value in theirs]
        elif name.startswith(("min", "exclusiveMin")):
            both[name] = max(mine, theirs)
        elif name.startswith(("max", "exclusiveMax")):
            both[name] = min(mine, theirs)
    return both
