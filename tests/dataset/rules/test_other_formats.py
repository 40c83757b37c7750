"""The rules on preferences and on pairs."""

from __future__ import annotations

from typing import Any

import pytest

from asyncgen.dataset.rules.file import check_pair, check_preference

USER = {"role": "user", "content": "Hotel, New York, small"}
BETTER = {"role": "assistant", "content": "Stay here."}
WORSE = {"role": "assistant", "content": "Stay."}


def preference(**changes: Any) -> dict[str, Any]:
    good = {"input": {"messages": [USER]}, "preferred_output": [BETTER], "non_preferred_output": [WORSE]}
    return {name: value for name, value in (good | changes).items() if value is not ...}


def test_a_good_preference_and_a_good_pair_break_no_rule() -> None:
    assert not list(check_preference(preference()))
    assert not list(check_pair({"prompt": "a -->", "completion": " b\n"}))
    assert not list(check_pair({"prompt": "", "completion": " b\n"}))


@pytest.mark.parametrize(
    ("rule", "example"),
    [
        ("input", preference(input=...)),
        ("input", preference(input=[USER])),
        ("messages", preference(input={"messages": []})),
        ("last_role", preference(input={"messages": [USER, BETTER]})),
        ("role", preference(input={"messages": [{"role": "bot", "content": "a"}]})),
        ("tools", preference(input={"messages": [USER], "tools": 5})),
        ("preferred_output", preference(preferred_output=...)),
        ("preferred_output", preference(preferred_output=[])),
        ("preferred_output", preference(preferred_output=[USER])),
        ("non_preferred_output", preference(non_preferred_output=[WORSE, WORSE])),
        ("empty_content", preference(non_preferred_output=[{"role": "assistant", "content": ""}])),
        ("same_outputs", preference(non_preferred_output=[BETTER])),
    ],
)
def test_each_rule_on_preferences_finds_the_example_that_breaks_it(rule: str, example: dict[str, Any]) -> None:
    assert rule in {fault.rule for fault in check_preference(example) if fault.fatal}


@pytest.mark.parametrize(
    ("rule", "example"),
    [
        ("prompt", {"completion": " b"}),
        ("prompt", {"prompt": None, "completion": " b"}),
        ("completion", {"prompt": "a"}),
        ("empty_completion", {"prompt": "a", "completion": " \n"}),
        ("unknown_key", {"prompt": "a", "completion": " b", "note": "c"}),
    ],
)
def test_each_rule_on_pairs_finds_the_example_that_breaks_it(rule: str, example: dict[str, Any]) -> None:
    assert rule in {fault.rule for fault in check_pair(example) if fault.fatal}
