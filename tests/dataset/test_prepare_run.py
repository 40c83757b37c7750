"""A run becomes a dataset: files, reasons, hashes, refusals, and sides that stay."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from asyncgen.dataset.prepare_run import Prepared, prepare_run
from asyncgen.errors import AsyncgenError, DiskError, UsageError
from asyncgen.providers.prices import PriceList
from asyncgen.providers.profiles import PROFILES
from asyncgen.run.directory import open_run
from asyncgen.run.jsonl import BadLineError

if TYPE_CHECKING:
    from asyncgen.run.records import Record

MakeRun = Callable[..., Any]  # the fixture's class stands in conftest, which cannot be imported

VALIDATED = "[dataset]\nvalidation = 0.25\nseed = 7\n"
SMALL = VALIDATED + "[checks]\nmax_words = 12\n"


def prepare(made: Any, provider: str = "local", **options: bool) -> Prepared:
    with open_run(made.path) as run:
        return prepare_run(
            run, made.opened.job, made.opened.grid, provider=PROFILES[provider], prices=PriceList(), **options
        )


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()]


def test_every_usable_record_becomes_one_sample_on_one_side(make_run: MakeRun) -> None:
    made = make_run(VALIDATED).fill()
    prepared = prepare(made)
    samples = lines(made.directory.train) + lines(made.directory.validation)
    pairs = [(message[0]["content"], message[1]["content"]) for message in (sample["messages"] for sample in samples)]
    assert sorted(pairs) == sorted((record.prompt, record.completion) for record in made.records)
    assert [file.samples for file in prepared.files] == [27, 9]
    assert not prepared.rejected
    assert not prepared.warnings


def test_samples_stand_in_the_order_of_the_records(make_run: MakeRun) -> None:
    made = make_run().fill()
    prepare(made)
    answers = [sample["messages"][-1]["content"] for sample in lines(made.directory.train)]
    assert answers == [record.completion for record in made.records]


def test_the_completion_format_has_separator_ending_and_leading_space(make_run: MakeRun) -> None:
    made = make_run('[dataset]\nformat = "completion"\n').fill()
    prepare(made)
    assert lines(made.directory.train)[0] == {
        "prompt": "Grocery, Brussels -->",
        "completion": " Answer 0 is for Grocery, Brussels.\n",
    }


def test_what_is_left_out_is_kept_with_its_reason(make_run: MakeRun) -> None:
    def change(record: Record) -> Record:
        changes: dict[int, dict[str, Any]] = {
            1: {"finish_reason": "length"},
            4: {"completion": "  "},
            7: {"completion": "word " * 13},
            10: {"completion": "I'm sorry, but I can't help with that."},
            12: {"finish_reason": "content_filter"},
            14: {"completion": "Answer 13 is for Pharmacy, Paris."},
        }
        return msgspec.structs.replace(record, **changes.get(record.index, {}))

    made = make_run(SMALL).fill(change)
    prepared = prepare(made)
    expected = Counter({"truncated": 1, "empty": 1, "check: max_words": 1, "refused": 1, "filtered": 1, "duplicate": 1})
    assert prepared.rejected == expected
    rejected = lines(made.directory.rejected)
    assert [(row["index"], row["reason"]) for row in rejected] == [
        (1, "truncated"),
        (4, "empty"),
        (7, "check: max_words"),
        (10, "refused"),
        (12, "filtered"),
        (14, "duplicate"),
    ]
    record = made.records[1]
    assert rejected[0] == {
        "key": record.key,
        "index": 1,
        "repeat": 1,
        "variables": record.variables,
        "prompt": record.prompt,
        "completion": record.completion,
        "reason": "truncated",
    }


def test_run_json_notes_files_with_their_hashes_and_how_to_ask(make_run: MakeRun) -> None:
    made = make_run(VALIDATED + 'format = "completion"\nseparator = " ==>"\nending = "END"\n').fill()
    prepare(made)
    dataset = made.directory.read_state().dataset
    for file, path in zip(dataset.files, (made.directory.train, made.directory.validation), strict=True):
        content = path.read_bytes()
        assert (file.name, file.sha256) == (path.name, hashlib.sha256(content).hexdigest())
        assert (file.bytes, file.samples) == (len(content), content.count(b"\n"))
    assert (dataset.format, dataset.separator, dataset.ending) == ("completion", " ==>", "END")
    assert dataset.ranks["city"] == ["Brussels", "Paris", "Berlin"]


def test_a_chat_dataset_notes_its_system_message_and_no_separator(make_run: MakeRun) -> None:
    made = make_run('[dataset]\nsystem = "You sell."\n').fill()
    prepare(made)
    dataset = made.directory.read_state().dataset
    assert (dataset.format, dataset.separator, dataset.ending, dataset.system) == ("chat", "", "", "You sell.")


def test_preparing_again_gives_the_same_bytes(make_run: MakeRun) -> None:
    made = make_run(VALIDATED).fill()
    first = prepare(made).files
    assert prepare(made).files == first


def test_no_sample_changes_sides_when_a_city_and_repeats_are_added_and_checks_change(make_run: MakeRun) -> None:
    made = make_run(SMALL).fill()
    prepare(made)
    before = {
        side.name: set(side.read_bytes().splitlines()) for side in (made.directory.train, made.directory.validation)
    }
    grown = make_run(
        SMALL.replace("12", "9"),
        job="""
name = "shops"
[grid]
sector = ["Books", "Grocery", "Pharmacy", "Florist", "Bakery"]
city = ["Aachen", "Brussels", "Paris", "Berlin"]
[prompt]
user = "Write for {sector} in {city}."
sample = "{sector}, {city}"
[generate]
repeats = 5
""",
    )
    old = {record.key: record for record in made.records}
    new = [grown.record(request, f"New answer {request.index}.") for request in grown.opened.grid.requests()]
    grown.write(made.records + [record for record in new if record.key not in old])
    prepare(grown)
    after = {
        side.name: set(side.read_bytes().splitlines()) for side in (grown.directory.train, grown.directory.validation)
    }
    assert not before["train.jsonl"] & after["validation.jsonl"]
    assert not before["validation.jsonl"] & after["train.jsonl"]
    assert before["train.jsonl"] <= after["train.jsonl"]


def test_no_pair_of_prompt_and_answer_is_on_both_sides_even_if_prompts_leave_an_axis_out(make_run: MakeRun) -> None:
    tables = VALIDATED + "[generate]\nrepeats = 3\n"
    job = 'name = "shops"\n[grid]\nsector = ["Grocery", "Books", "Pharmacy", "Bakery"]\n'
    job += 'city = ["A", "B", "C", "D", "E", "F", "G"]\n'
    job += '[prompt]\nuser = "Write for {sector} in {city}."\nsample = "{sector}"\n'
    made = make_run(tables, job=job).fill(
        lambda record: msgspec.structs.replace(record, completion=f"Text {record.index % 8}.")
    )
    prepare(made)
    train, validation = (
        set(path.read_bytes().splitlines()) for path in (made.directory.train, made.directory.validation)
    )
    assert validation
    assert not train & validation


def test_records_made_with_another_short_prompt_become_samples_of_the_present_one(make_run: MakeRun) -> None:
    made = make_run().fill()
    job = made.path.parent.joinpath("run.toml").read_text().replace('"{sector}, {city}"', '"{sector} in {city}"')
    prepared = prepare(make_run(job=job))
    assert prepared.rejected == {}
    prompts = {line["messages"][0]["content"] for line in lines(made.directory.train)}
    assert "Grocery in Brussels" in prompts
    assert not any("," in prompt for prompt in prompts)


def test_stale_records_stay_out(make_run: MakeRun) -> None:
    made = make_run().fill()
    job = made.path.parent.joinpath("run.toml").read_text().replace('"Paris", ', "")
    smaller = make_run(job=job)
    prepared = prepare(smaller)
    assert prepared.rejected == {"stale": 12}
    assert prepared.files[0].samples == 24


def test_fewer_than_ten_samples_are_refused_and_nothing_is_written_but_the_reasons(make_run: MakeRun) -> None:
    made = make_run(VALIDATED).fill(
        lambda record: record if record.index < 9 else msgspec.structs.replace(record, finish_reason="length")
    )
    with pytest.raises(AsyncgenError) as raised:
        prepare(made)
    assert raised.value.code == "refused_dataset"
    assert "at least 10" in str(raised.value.cause)
    assert "27 truncated" in str(raised.value.cause)
    assert not made.directory.train.exists()
    assert not made.directory.validation.exists()
    assert len(lines(made.directory.rejected)) == 27
    assert made.directory.read_state().dataset is None


def test_a_refusal_leaves_an_earlier_dataset_as_it_was(make_run: MakeRun) -> None:
    made = make_run().fill()
    prepare(made)
    before = made.directory.train.read_bytes()
    made.write(made.records[:5])
    with pytest.raises(AsyncgenError):
        prepare(made)
    assert made.directory.train.read_bytes() == before
    assert made.directory.read_state().dataset.files[0].samples == 36


def test_a_format_that_the_provider_does_not_take_is_refused(make_run: MakeRun) -> None:
    made = make_run('[dataset]\nformat = "completion"\n').fill()
    with pytest.raises(AsyncgenError, match="OpenAI would refuse"):
        prepare(made, "openai")


def test_azure_gets_its_byte_order_mark_and_the_hash_is_of_all_bytes(make_run: MakeRun) -> None:
    made = make_run(VALIDATED).fill()
    prepared = prepare(made, "azure")
    for file, path in zip(prepared.files, (made.directory.train, made.directory.validation), strict=True):
        assert path.read_bytes().startswith(b'\xef\xbb\xbf{"messages"')
        assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_method_dpo_needs_pairs(make_run: MakeRun) -> None:
    made = make_run('[finetune]\nmethod = "dpo"\n').fill()
    with pytest.raises(UsageError, match="dpo"):
        prepare(made)


PAIRS = """
name = "pairs"
[grid]
quality = ["excellent", "mediocre", "odd"]
city = ["Bonn", "Oslo", "Rome", "Lima", "Bern", "Kyiv"]
[prompt]
user = "Write {quality} for {city}."
sample = "{city}"
[generate]
repeats = 2
"""
BY_VALUES = (
    '[dataset]\nformat = "preference"\nchosen = { quality = "excellent" }\nrejected = { quality = "mediocre" }\n'
)


def test_rows_equal_in_all_but_the_named_axis_are_a_pair(make_run: MakeRun) -> None:
    made = make_run(BY_VALUES, job=PAIRS).fill()
    prepared = prepare(made, "openai")
    written = lines(made.directory.train)
    assert len(written) == 12
    assert prepared.rejected == {"no_pair": 12}  # of the third quality
    by_variables = {(*record.variables.values(), record.repeat): record.completion for record in made.records}
    assert written[0] == {
        "input": {"messages": [{"role": "user", "content": "Bonn"}]},
        "preferred_output": [{"role": "assistant", "content": by_variables["excellent", "Bonn", 0]}],
        "non_preferred_output": [{"role": "assistant", "content": by_variables["mediocre", "Bonn", 0]}],
    }


def test_accepted_answers_are_preferred_to_rejected_ones_of_the_same_combination(make_run: MakeRun) -> None:
    def change(record: Record) -> Record:
        bad = record.repeat == 1
        return msgspec.structs.replace(
            record, completion="word " * 20 if bad else "Short.", check_failures=["max_words"] * bad
        )

    made = make_run('[dataset]\nformat = "preference"\n[checks]\nmax_words = 12\n').fill(change)
    prepare(made, "openai")
    written = lines(made.directory.train)
    assert len(written) == 12
    assert {line["preferred_output"][0]["content"] for line in written} == {"Short."}
    assert all(line["non_preferred_output"][0]["content"].startswith("word word") for line in written)


def test_pairs_are_split_by_combination_too(make_run: MakeRun) -> None:
    made = make_run(BY_VALUES + "validation = 0.34\n", job=PAIRS.replace("repeats = 2", "repeats = 3")).fill()
    prepare(made, "openai")
    sides = [
        {line["input"]["messages"][0]["content"] for line in lines(path)}
        for path in (made.directory.train, made.directory.validation)
    ]
    assert len(sides[1]) == 2
    assert not sides[0] & sides[1]


JUDGE = """
name = "judge"
[rows]
run = "run"
[prompt]
user = "Score {answer}."
sample = "{answer}"
[answer]
format = "json"
"""


def test_the_judges_scores_decide_and_the_best_of_each_combination_are_kept(make_run: MakeRun) -> None:
    made = make_run('[dataset]\nscores = { run = "judge", field = "score", at_least = 3, best = 1 }\n').fill()
    judge = make_run(job=JUDGE, name="judge")
    judge.fill(lambda record: msgspec.structs.replace(record, completion=f'{{"score": {2 + record.index % 3}}}'))
    prepared = prepare(made)
    scores = {record.variables["source"]: json.loads(record.completion)["score"] for record in judge.records}
    kept = {line["messages"][1]["content"] for line in lines(made.directory.train)}
    best: dict[str, list[tuple[int, str]]] = {}
    for record in made.records:
        best.setdefault(record.prompt, []).append((scores[record.key], record.completion))
    assert kept == {max(found)[1] for found in best.values() if max(found)[0] >= 3}
    assert prepared.rejected == {"score": 36 - len(kept)}


def test_scores_that_a_simulation_made_up_choose_no_samples_unless_told(make_run: MakeRun) -> None:
    made = make_run('[dataset]\nscores = { run = "judge", field = "score", best = 1 }\n').fill()
    made_up = {"completion": '{"score": 4}', "simulated": True}
    make_run(job=JUDGE, name="judge").fill(lambda record: msgspec.structs.replace(record, **made_up))
    with pytest.raises(UsageError, match="36 of the scores") as refused:
        prepare(made)
    assert refused.value.code == "simulated"
    assert prepare(made, simulated=True).files[0].samples == 12


def test_a_simulations_answers_are_refused_unless_told(make_run: MakeRun) -> None:
    made = make_run().fill(lambda record: msgspec.structs.replace(record, simulated=record.index == 3))
    with pytest.raises(UsageError, match="simulated"):
        prepare(made)
    assert prepare(made, simulated=True).files[0].samples == 36
    assert made.directory.read_state().dataset.simulated == 1


def test_near_duplicates_are_counted_and_dropped_when_asked(make_run: MakeRun) -> None:
    text = "Give your shops a safe way to accept cards online, because every customer wants it now."

    def change(record: Record) -> Record:
        spoken = text if record.repeat == 0 else text.replace("safe", "quick") if record.repeat == 1 else None
        return msgspec.structs.replace(record, completion=spoken or record.completion)

    made = make_run().fill(change)
    kept = prepare(made)
    assert (kept.near_duplicates, kept.files[0].samples) == (12, 36)
    assert any("near" in warning for warning in kept.warnings)
    dropped = prepare(made, drop_near_duplicates=True)
    assert (dropped.near_duplicates, dropped.files[0].samples) == (12, 24)
    assert dropped.rejected == {"near_duplicate": 12}
    assert {row["repeat"] for row in lines(made.directory.rejected)} == {1}


def test_near_duplicates_among_the_items_of_answers_are_those_that_became_samples(make_run: MakeRun) -> None:
    first = "Pay by card in every shop of the town, at once."
    second = "Give your shops a safe way to accept cards online, because every customer wants it now."
    items = [[first], [first, second], [second.replace("safe", "quick")]]
    each = '[answer]\nformat = "json"\neach = "texts"\n'
    made = make_run(each).fill(
        lambda record: msgspec.structs.replace(record, completion=json.dumps({"texts": items[record.repeat]}))
    )
    prepared = prepare(made)
    assert (prepared.near_duplicates, prepared.files[0].samples) == (12, 36)


def test_without_validation_an_earlier_validation_file_is_removed(make_run: MakeRun) -> None:
    made = make_run(VALIDATED).fill()
    prepare(made)
    assert made.directory.validation.exists()
    prepared = prepare(make_run())
    assert prepared.validation is None
    assert not made.directory.validation.exists()


def test_an_empty_validation_file_is_not_left_behind(make_run: MakeRun) -> None:
    made = make_run("[dataset]\nvalidation = 0.0001\n").fill()
    prepared = prepare(made)
    assert prepared.validation is None
    assert not made.directory.validation.exists()
    assert any("validation" in warning for warning in prepared.warnings)


def test_values_held_out_are_on_the_validation_side_whole_and_no_cause_for_a_warning(make_run: MakeRun) -> None:
    made = make_run('[dataset]\nhold_out = { city = ["Berlin"] }\n').fill()
    prepared = prepare(made)
    asked = [line["messages"][0]["content"] for line in lines(made.directory.validation)]
    assert len(asked) == 12
    assert all(prompt.endswith("Berlin") for prompt in asked)
    assert not any("Berlin" in line["messages"][0]["content"] for line in lines(made.directory.train))
    assert not prepared.warnings


def test_code_fences_around_json_are_read_and_told(make_run: MakeRun) -> None:
    made = make_run('[answer]\nformat = "json"\n[on.local.prompt]\ntarget = "{answer.a}"\n').fill(
        lambda record: msgspec.structs.replace(record, completion=f'```json\n{{"a": "{record.completion}"}}\n```')
    )
    prepared = prepare(made)
    answers = {sample["messages"][-1]["content"] for sample in lines(made.directory.train)}
    assert not any("`" in answer for answer in answers)
    assert f"{len(made.records)} answers had a code fence around their JSON" in prepared.warnings[0]


def test_separators_and_endings_inside_texts_are_told(make_run: MakeRun) -> None:
    made = make_run('[dataset]\nformat = "completion"\nseparator = ", B"\nending = " is "\n').fill()
    warnings = prepare(made).warnings
    assert any("24 prompts have the separator" in warning for warning in warnings)
    assert any("36 answers have the ending" in warning for warning in warnings)


def test_tokens_are_counted_for_the_training_side_only(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "toktok", None)
    made = make_run(VALIDATED).fill()
    prepared = prepare(made)
    assert prepared.tokens.summary().count == 27
    assert "from this run's answers" in prepared.token_label


def test_answers_that_only_go_on_from_an_opening_do_not_say_how_many_tokens_a_text_has(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "toktok", None)
    made = make_run('[on.local.prompt]\nopenings = ["Dear {sector} in {city}"]\n', generation="local").fill()
    assert made.opened.grid.has_openings
    assert prepare(made).token_label.startswith("estimated as bytes / 4;")


def test_the_first_cost_is_that_of_the_provider_asked_for(make_run: MakeRun) -> None:
    costs = prepare(make_run("[finetune.hyperparameters]\nn_epochs = 2\n").fill(), "nebius").costs
    assert costs[0].provider == "nebius"
    assert costs[0].epochs == 2
    assert costs[0].usd is not None


def test_a_damaged_line_ends_it_with_its_number(make_run: MakeRun) -> None:
    made = make_run().fill()
    with made.directory.records.open("ab") as file:
        file.write(b'{"key": 5}\n')
    with pytest.raises(BadLineError, match="line 37"):
        prepare(made)


def test_blank_lines_and_a_torn_last_one_are_read_over(make_run: MakeRun) -> None:
    made = make_run(VALIDATED).fill()
    content = made.directory.records.read_bytes().replace(b"\n", b"\n\n", 3)
    made.directory.records.write_bytes(content + b'{"key": "half')
    assert sum(file.samples for file in prepare(made, drop_near_duplicates=True).files) == 36


def test_a_run_without_records_is_refused(make_run: MakeRun) -> None:
    with pytest.raises(AsyncgenError, match="would refuse"):
        prepare(make_run())


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that refuses writes")
def test_a_place_that_cannot_be_written_leaves_everything_as_it_was(make_run: MakeRun) -> None:
    made = make_run(VALIDATED).fill()
    prepare(made)
    before = made.directory.state.read_bytes()
    made.directory.rejected.unlink()
    made.directory.rejected.mkdir()
    with pytest.raises(DiskError):
        prepare(made)
    assert made.directory.state.read_bytes() == before


def test_a_prompt_that_two_combinations_share_is_trained_on_or_validates_but_never_both(make_run: MakeRun) -> None:
    job = 'name = "shops"\n[grid]\na = ["x", "xy", "q", "r", "s", "t", "u", "v"]\nb = ["yz", "z", "w", "o"]\n'
    made = make_run(
        "[dataset]\nvalidation = 0.4\n[generate]\nrepeats = 2\n",
        job=job + '[prompt]\nuser = "{a} {b}"\nsample = "{a}{b}"\n',
    )
    prepared = prepare(made.fill())
    sides = [
        {line["messages"][0]["content"] for line in lines(path)}
        for path in (made.directory.train, made.directory.validation)
    ]
    assert not sides[0] & sides[1]
    assert (prepared.validation_prompts, prepared.trained_on) == (len(sides[1]), 0)


@pytest.mark.parametrize("renamed", ["train.jsonl", "validation.jsonl"])
def test_a_crash_between_the_files_leaves_no_new_file_under_an_old_hash(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, renamed: str
) -> None:
    made = make_run(VALIDATED).fill()
    prepare(made)
    made.write([msgspec.structs.replace(record, completion=f"New {record.index}.") for record in made.records])
    rename = Path.rename

    def crash(path: Path, target: Path) -> Path:
        if target.name == renamed:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        prepare(made)
    state = made.directory.read_state().dataset
    assert state.files == []
    assert state.ranks
    monkeypatch.undo()
    assert [file.samples for file in prepare(made).files] == [27, 9]
