import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.job.answers import AnswerItem, AnswerReader, ReadAnswer, conversation, short_reasons
from asyncgen.job.model import AnswerSettings

JSON = AnswerReader(AnswerSettings(format="json"))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.text() | values.map(json.dumps), st.sampled_from([{}, {"each": "a"}, {"messages": "a"}]))
def test_any_answer_is_read_to_items_or_to_failures(text: str, settings: dict[str, str]) -> None:
    read = AnswerReader(AnswerSettings(format="json", **settings), {}, ["a"]).read(text)
    assert bool(read.items) != bool(read.failures)


def test_text_is_one_item_without_blanks_around_it() -> None:
    assert AnswerReader(AnswerSettings()).read(" {no json ").items == (AnswerItem("{no json"),)


def test_fields_are_text_and_nested_ones_json() -> None:
    read = JSON.read('{"q": "Why?", "n": 12345678901234567890123, "tags": ["a", 1], "ok": true, "none": null}')
    assert read.items[0].fields == {"q": "Why?", "n": "12345678901234567890123", "tags": '["a",1]', "ok": "true"}


@pytest.mark.parametrize(
    "text", ['```json\n{"a": 1}\n```', '  ```\n{"a": 1}```  ', '<think>\nhm\n</think>\n\n```json\n{"a": 1}\n```']
)
def test_a_code_fence_around_json_is_taken_off_and_told(text: str) -> None:
    read = JSON.read(text)
    assert read == ReadAnswer((AnswerItem('{"a": 1}', {"a": "1"}),), (), fenced=True)
    assert not JSON.read('{"a": 1}').fenced


def test_each_gives_an_item_for_each_of_the_list_over_the_fields_of_the_whole() -> None:
    reader = AnswerReader(AnswerSettings(format="json", each="pairs"))
    read = reader.read('{"topic": "t", "pairs": [{"q": "1"}, {"q": "2", "topic": "u"}, "x"]}')
    assert [item.text for item in read.items] == ['{"q":"1"}', '{"q":"2","topic":"u"}', "x"]
    assert [(item.fields["topic"], item.fields.get("q")) for item in read.items] == [
        ("t", "1"),
        ("u", "2"),
        ("t", None),
    ]


@pytest.mark.parametrize("text", ['{"pairs": []}', '{"pairs": "x"}', "{}", "[1]", "3"])
def test_an_answer_without_the_list_fails(text: str) -> None:
    assert AnswerReader(AnswerSettings(format="json", each="pairs")).read(text) == ReadAnswer((), ("each",))


def test_a_field_that_a_template_names_must_be_there() -> None:
    reader = AnswerReader(AnswerSettings(format="json"), None, ["q", "a"])
    assert reader.read('{"q": "x", "a": null}').failures == ("missing: a",)


def test_a_conversation_is_read_up_to_the_assistants_last_turn() -> None:
    reader = AnswerReader(AnswerSettings(format="json", messages="turns"))
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    more = [*turns, {"role": "user", "content": "Bye"}]
    assert reader.read(orjson.dumps({"turns": more}).decode()).items[0].turns == turns
    for wrong in ([], turns[:1], turns[1:], [{"role": "nobody", "content": "x"}], [3], "x"):
        assert reader.read(orjson.dumps({"turns": wrong}).decode()).failures == ("messages",)


def test_sharegpt_turns_are_chat_turns() -> None:
    assert conversation([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]) == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
    ]


@pytest.mark.parametrize("schema", [{"type": "objct"}, {"$ref": "http://127.0.0.1:9/other"}, {"$ref": "#/nowhere"}])
def test_a_schema_that_is_none_or_not_whole_is_refused(schema: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        AnswerReader(AnswerSettings(format="json"), schema)


def test_patterns_are_left_out_of_reasons_and_equal_ones_counted_together() -> None:
    reasons = {
        r"fails the check must_not_match: (?i)\b(meals?|dinner)\b": 3,
        "fails the check must_not_match: " + "word " * 20: 2,
        "fails the check must_not_match: dinner": 4,
        "fails the check must_contain: {city}": 1,
        "fails the check max_words": 5,
        "the answer was cut off": 6,
    }
    assert short_reasons(reasons) == {
        "fails the check must_not_match": 5,
        "fails the check must_not_match: dinner": 4,
        "fails the check must_contain: {city}": 1,
        "fails the check max_words": 5,
        "the answer was cut off": 6,
    }
