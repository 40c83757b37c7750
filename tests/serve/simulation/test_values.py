"""Made-up JSON by a schema."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.serve.simulation.values import UnfitSchemaError, simulated_value

QA = {
    "type": "object",
    "properties": {"question": {"type": "string"}, "answer": {"type": "string"}, "score": {"type": "integer"}},
    "required": ["question", "answer", "score"],
    "additionalProperties": False,
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["name"],
        }
    },
}
SCHEMAS: dict[str, Any] = {
    "fields": QA,
    "list of objects": {"type": "object", "properties": {"pairs": {"type": "array", "items": QA, "minItems": 5}}},
    "recursive": TREE,
    "enum": {"enum": ["positive", "negative", 3, None]},
    "const": {"const": {"a": [1]}},
    "either": {"anyOf": [{"type": "integer"}, QA, {"type": "null"}]},
    "exactly one": {"oneOf": [{"type": "integer", "multipleOf": 5}, {"type": "integer", "multipleOf": 3}]},
    "all of": {"allOf": [QA, {"properties": {"score": {"minimum": 1, "maximum": 5}}, "required": ["score"]}]},
    "nullable": {"type": ["string", "null"], "minLength": 40, "maxLength": 50},
    "short": {"type": "string", "maxLength": 3},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
    "formats": {"type": "object", "properties": {name: {"type": "string", "format": name} for name in
                ("date-time", "date", "time", "email", "uri", "uuid", "ipv4", "ipv6", "hostname", "duration")}},
    "bounds": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "below zero": {"type": "integer", "maximum": -500},
    "steps": {"type": "integer", "multipleOf": 7, "minimum": 10, "maximum": 20},
    "map": {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 3},
    "unique": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True, "minItems": 3},
    "tuple": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}], "items": False, "minItems": 2},
    "not": {"type": "integer", "minimum": 0, "maximum": 3, "not": {"const": 2}},
    "anything": True,
    "nothing said": {},
    "pydantic": {
        "$defs": {"Mood": {"enum": ["calm", "keen"], "type": "string", "title": "Mood"}},
        "properties": {"mood": {"$ref": "#/$defs/Mood"},
                       "tags": {"default": [], "items": {"type": "string"}, "type": "array"}},
        "required": ["mood"], "title": "Reply", "type": "object",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
@given(seed=st.binary(min_size=16, max_size=16))
def test_value_is_valid_by_its_schema(name: str, seed: bytes) -> None:
    validator = jsonschema_rs.validator_for(SCHEMAS[name])
    value = simulated_value(SCHEMAS[name], seed)
    validator.validate(value)
    assert value == simulated_value(SCHEMAS[name], seed)


def test_seeds_give_other_values() -> None:
    assert len({str(simulated_value(QA, b"%d" % seed)) for seed in range(10)}) == 10


def test_optional_fields_are_there_and_texts_say_what_they_are() -> None:
    value = simulated_value({"type": "object", "properties": {"city": {"type": "string"}}}, b"x")
    assert value["city"].startswith("Simulated city ")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#/$defs/gone"},
        {"$ref": "#"},
        {"type": "object", "properties": {"me": {"$ref": "#"}}, "required": ["me"]},
        {"type": "string", "pattern": "("},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "array", "minItems": 10**9},
        {"type": "string", "minLength": 10**9},
        {"type": "object", "additionalProperties": {"type": "array", "minItems": 900}, "minProperties": 10**9},
        False,
        [],
        3,
    ],
)
def test_schema_without_a_value_is_refused(schema: Any) -> None:
    with pytest.raises(UnfitSchemaError):
        simulated_value(schema, b"x")


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["string", "integer", "object", "#", "^a+$"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["type", "properties", "items", "enum", "required", "anyOf", "$ref", "minimum", "maxLength",
                         "minItems", "pattern", "additionalProperties", "multipleOf", "allOf", "const", "format"]),
        inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(_json)
def test_any_json_is_a_schema_with_a_valid_value_or_refused(schema: Any) -> None:
    try:
        value = simulated_value(schema, b"x")
    except UnfitSchemaError:
        return
    assert jsonschema_rs.is_valid(schema, value)
