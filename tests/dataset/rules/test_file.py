"""Whole training files: each finding has its line, and what holds for all lines is found too."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from asyncgen.dataset.rules.file import CheckedFile, check_training_file, whole_file_faults
from asyncgen.dataset.token_counts import TokenCounter
from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.providers.profiles import PROFILES

if TYPE_CHECKING:
    from pathlib import Path

COUNTER = TokenCounter("characters", exact=True, count=lambda texts: list(map(len, texts)))


def chat(number: int = 0, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Shop {number}"}, {"role": "assistant", "content": "Buy."}]
    return {"messages": messages, **more}


def write(path: Path, *lines: Any) -> Path:
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
    return path


def check(path: Path, provider: str = "openai") -> CheckedFile:
    return check_training_file(path, PROFILES[provider], COUNTER)


def found(checked: CheckedFile) -> list[tuple[int | None, str]]:
    return [(finding.line, finding.fault.rule) for finding in checked.findings.fatal]


def test_a_good_file_has_no_findings(tmp_path: Path) -> None:
    checked = check(write(tmp_path / "a.jsonl", *map(chat, range(10))))
    assert not found(checked)
    assert (checked.format, checked.examples, checked.duplicates, checked.marked) == ("chat", 10, 0, False)
    assert checked.tokens.summary().total == sum(6 + 4 + 3 + 8 for _ in range(10))


def test_each_finding_tells_file_and_line(tmp_path: Path) -> None:
    lines = [*map(chat, range(10)), "", {"messages": []}, "{oops", 5]
    checked = check(write(tmp_path / "a.jsonl", *lines))
    assert found(checked) == [(12, "messages"), (13, "json"), (14, "example")]
    assert str(checked.findings.fatal[0]).startswith(f"{tmp_path / 'a.jsonl'}:12: ")


def test_fewer_than_ten_examples_are_refused(tmp_path: Path) -> None:
    assert found(check(write(tmp_path / "a.jsonl", *map(chat, range(9))))) == [(None, "too_few")]


def test_one_file_has_one_format(tmp_path: Path) -> None:
    checked = check(write(tmp_path / "a.jsonl", *map(chat, range(10)), {"prompt": "a", "completion": " b"}))
    assert found(checked) == [(11, "mixed")]


def test_a_format_that_the_provider_does_not_take_is_refused(tmp_path: Path) -> None:
    pairs = [{"prompt": f"{number} ->", "completion": " b\n"} for number in range(10)]
    path = write(tmp_path / "a.jsonl", *pairs)
    assert found(check(path, "openai")) == [(None, "format")]
    assert not found(check(path, "nebius"))


def test_preferences_are_taken_where_the_method_is(tmp_path: Path) -> None:
    example = {
        "input": {"messages": [{"role": "user", "content": "a"}]},
        "preferred_output": [{"role": "assistant", "content": "b"}],
        "non_preferred_output": [{"role": "assistant", "content": "c"}],
    }
    path = write(tmp_path / "a.jsonl", *[example] * 10)
    assert not found(check(path, "openai"))
    assert found(check(path, "nebius")) == [(None, "format")]


def test_turns_are_checked_where_the_provider_asks_for_them(tmp_path: Path) -> None:
    example = {"messages": [{"role": "user", "content": "a"}, *chat()["messages"]]}
    path = write(tmp_path / "a.jsonl", *[example] * 10)
    assert not found(check(path, "openai"))
    assert ("turns" in {rule for _, rule in found(check(path, "together"))}) is True


def test_examples_beyond_the_providers_limit_are_told_with_their_line(tmp_path: Path) -> None:
    long = {"messages": [{"role": "user", "content": "x" * 70_000}, {"role": "assistant", "content": "b"}]}
    checked = check(write(tmp_path / "a.jsonl", *map(chat, range(10)), long))
    assert not checked.findings.fatal
    [cut] = checked.findings.remarks
    assert (cut.line, cut.fault.rule) == (11, "cut")
    assert "65,536" in cut.fault.text


def test_a_file_that_is_too_large_is_refused() -> None:
    faults = list(whole_file_faults("chat", 100, 513 * 2**20, PROFILES["openai"]))
    assert [fault.rule for fault in faults] == ["too_large"]


def test_repeated_lines_are_counted_however_their_keys_are_ordered(tmp_path: Path) -> None:
    lines = [*map(chat, range(10)), chat(3), {"tools": [], "messages": chat(4)["messages"]}]
    lines.append({"messages": chat(4)["messages"], "tools": []})
    assert check(write(tmp_path / "a.jsonl", *lines)).duplicates == 2


def test_a_byte_order_mark_is_noticed_and_read_over(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *map(chat, range(10)))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    checked = check(path)
    assert checked.marked
    assert not found(checked)


def test_only_the_first_findings_are_kept_but_all_are_counted(tmp_path: Path) -> None:
    checked = check(write(tmp_path / "a.jsonl", *[{"messages": []}] * 250))
    assert len(checked.findings.fatal) == 100
    assert checked.findings.fatal_count == 250
    assert checked.findings.counts["messages"] == 250


def test_bytes_that_are_not_utf_8_end_the_check_with_their_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", chat())
    path.write_bytes(path.read_bytes() + '{"messages": "é"}\n'.encode("latin-1"))
    with pytest.raises(AsyncgenError, match=r"a\.jsonl:2: not UTF-8"):
        check(path)


def test_a_file_that_is_not_there_is_an_error_of_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file"):
        check(tmp_path / "nothing.jsonl")
