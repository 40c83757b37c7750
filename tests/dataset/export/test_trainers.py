"""A dataset as each trainer wants it: rows of which only the answers are learnt, and a configuration it knows."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncgen.dataset.export.files import ordered_records
from asyncgen.dataset.export.prepared import ExportedForTrainer, export_for_trainer, export_prepared_folder
from asyncgen.dataset.export.trainers import TRAINERS, as_yaml
from asyncgen.dataset.prepare_run import prepare_run
from asyncgen.errors import UsageError
from asyncgen.providers.prices import PriceList
from asyncgen.providers.profiles import PROFILES
from asyncgen.run.directory import open_run

MakeRun = Callable[..., Any]  # the fixture's class stands in conftest, which cannot be imported
FIELDS = Path(__file__).parent / "fields"
VALIDATED = '[dataset]\nvalidation = 0.25\nseed = 7\nsystem = "You sell."\n'
PAIRS = """
[dataset]
format = "preference"
chosen = { quality = "good" }
rejected = { quality = "bad" }
validation = 0.25
[finetune]
method = "dpo"
"""
PAIRS_JOB = """
name = "pairs"
[grid]
city = ["Brussels", "Paris", "Berlin", "Rome"]
quality = ["good", "bad"]
[prompt]
user = "A {quality} text for {city}."
sample = "{city}"
[generate]
repeats = 3
"""


def prepare(made: Any) -> Any:
    with open_run(made.path) as run:
        job = made.opened.job
        prepare_run(run, job, made.opened.grid, provider=PROFILES["together"], prices=PriceList())
    return made


def export(made: Any, path: Path, trainer: str, model: str | None = "org/model") -> ExportedForTrainer:
    records = ordered_records(made.directory.record_files(), None)
    return export_for_trainer(path, trainer, made.directory, made.opened, records, model)


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def yaml_of(path: Path) -> Any:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def recorded(package: str, *classes: str) -> set[str]:
    found = json.loads((FIELDS / f"{package}.json").read_text())["classes"]
    return {field for name in classes or found for field in found[name]}


def conversation(row: dict[str, Any]) -> list[Any]:
    found = row.get("messages") or row["prompt"] + row["completion"]
    return [{**turn, "content": plain(turn["content"])} for turn in found]


def plain(content: str | list[dict[str, str]]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_rows_are_those_of_prepare_each_on_its_side(make_run: MakeRun, tmp_path: Path, trainer: str) -> None:
    made = prepare(make_run(VALIDATED).fill())
    exported = export(made, tmp_path / "out", trainer)
    assert (exported.rows, exported.validation_rows) == (27, 9)
    for theirs, ours in (("train.jsonl", "train.jsonl"), (TRAINERS[trainer].validation, "validation.jsonl")):
        want = [row["messages"] for row in lines(made.path / ours)]
        assert [conversation(row) for row in lines(tmp_path / "out" / theirs)] == want


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_folder_is_a_dataset_of_the_hub_and_its_card_has_the_command(
    make_run: MakeRun, tmp_path: Path, trainer: str
) -> None:
    made = prepare(make_run(VALIDATED).fill())
    exported = export(made, tmp_path / "out", trainer)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"- split: validation\n    path: {TRAINERS[trainer].validation}\n" in card.split("---")[1]
    assert TRAINERS[trainer].command.format(folder=".") in card
    assert exported.command == TRAINERS[trainer].command.format(folder=tmp_path / "out")
    assert "`city`: " in card
    assert export(made, tmp_path / "out", "trl").rows == 27  # an export replaces another one


def test_only_the_answer_is_learnt(make_run: MakeRun, tmp_path: Path) -> None:
    made = prepare(make_run(VALIDATED).fill())
    for trainer in TRAINERS:
        export(made, tmp_path / trainer, trainer)
    row = lines(tmp_path / "trl" / "train.jsonl")[0]
    assert [turn["role"] for turn in row["completion"]] == ["assistant"]
    assert [turn["role"] for turn in row["prompt"]] == ["system", "user"]
    assert yaml_of(tmp_path / "unsloth" / "unsloth.yaml")["training"]["train_on_completions"] is True
    axolotl = yaml_of(tmp_path / "axolotl" / "axolotl.yaml")
    assert axolotl["train_on_inputs"] is False
    assert axolotl["datasets"][0]["roles_to_train"] == ["assistant"]
    assert yaml_of(tmp_path / "llama-factory" / "llama-factory.yaml")["train_on_prompt"] is False
    assert yaml_of(tmp_path / "mlx" / "mlx.yaml")["mask_prompt"] is True
    assert "ALL_ASSISTANT_MESSAGES" in (tmp_path / "tinker" / "train.py").read_text(encoding="utf-8")


def test_model_suffix_epochs_rank_and_length_come_from_the_job_and_its_data(make_run: MakeRun, tmp_path: Path) -> None:
    tables = (
        '[finetune]\nmodel = "meta-llama/Meta-Llama-3.1-8B-Instruct-Reference"\nsuffix = "adverts"\nseed = 5\n'
        "[finetune.hyperparameters]\nn_epochs = 4\nlora_rank = 32\nlearning_rate = 2e-5\nbatch_size = 4\n"
    )
    long = "word " * 900
    made = make_run(VALIDATED + tables)
    made.fill(lambda record: msgspec.structs.replace(record, completion=f"{long}{record.index}"))
    prepare(made)
    plan = export(made, tmp_path / "out", "axolotl", None).plan
    assert plan is not None
    assert (plan.model, plan.suffix) == ("meta-llama/Meta-Llama-3.1-8B-Instruct", "adverts")
    settings = yaml_of(tmp_path / "out" / "axolotl.yaml")
    assert (settings["num_epochs"], settings["lora_r"], settings["lora_alpha"]) == (4, 32, 64)
    assert (settings["micro_batch_size"], settings["seed"]) == (4, 5)
    assert settings["learning_rate"] == 2e-5
    assert settings["sequence_len"] >= 900
    export(made, tmp_path / "out", "trl", None)
    job = json.loads((tmp_path / "out" / "job.json").read_text())
    assert (job["model"], job["suffix"], job["seed"]) == (plan.model, "adverts", 5)
    assert job["hyperparameters"]["n_epochs"] == 4


def test_every_name_of_a_configuration_is_one_of_the_trainers_own(make_run: MakeRun, tmp_path: Path) -> None:
    chats = prepare(make_run(VALIDATED, name="chats").fill())
    pairs = prepare(make_run(PAIRS, job=PAIRS_JOB, name="pairs").fill())
    for made in (chats, pairs):
        export(made, tmp_path / "axolotl", "axolotl")
        settings = yaml_of(tmp_path / "axolotl" / "axolotl.yaml")
        assert set(settings) <= recorded("axolotl")
        assert {name for each in settings["datasets"] for name in each} <= recorded(
            "axolotl", "SFTDataset", "DPODataset"
        )
        export(made, tmp_path / "factory", "llama-factory")
        settings = yaml_of(tmp_path / "factory" / "llama-factory.yaml")
        assert set(settings) <= recorded("llamafactory") | recorded("transformers")
        info = json.loads((tmp_path / "factory" / "dataset_info.json").read_text())
        for entry in info.values():
            assert (tmp_path / "factory" / entry.pop("file_name")).exists()
            names = {*entry, *entry.pop("columns"), *entry.pop("tags")} - {"columns", "tags"}
            assert names <= recorded("llamafactory", "DatasetAttr")
    export(chats, tmp_path / "unsloth", "unsloth")
    settings = yaml_of(tmp_path / "unsloth" / "unsloth.yaml")
    assert set(settings) <= recorded("unsloth", "Config")
    for section, name in (("data", "DataConfig"), ("training", "TrainingConfig"), ("lora", "LoraConfig")):
        assert set(settings[section]) <= recorded("unsloth", name)
    export(chats, tmp_path / "mlx", "mlx")
    assert set(yaml_of(tmp_path / "mlx" / "mlx.yaml")) <= recorded("mlx_lm")


def keywords(script: Path, *callables: str, table: str = "") -> set[str]:
    """The names that a script passes to these, and the keys of the dictionary that it spreads there."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in callables:
            found |= {each.arg for each in node.keywords if each.arg}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == table:
            assert isinstance(node.value, ast.Dict)
            found |= {str(each.value) for each in node.value.keys if isinstance(each, ast.Constant)}
    return found


def test_the_scripts_pass_only_what_their_libraries_take(make_run: MakeRun, tmp_path: Path) -> None:
    made = prepare(make_run(VALIDATED).fill())
    export(made, tmp_path / "trl", "trl")
    script = tmp_path / "trl" / "train.py"
    given = keywords(script, "SFTConfig", "DPOConfig", table="common")
    assert given > {"max_length", "completion_only_loss", "eval_strategy"}
    assert given <= recorded("trl") | recorded("transformers")
    assert keywords(script, "LoraConfig") <= recorded("peft")
    export(made, tmp_path / "tinker", "tinker")
    script = tmp_path / "tinker" / "train.py"
    assert keywords(script, "Config") <= recorded("tinker_cookbook", "Config")
    common = keywords(script, "ChatDatasetBuilderCommonConfig")
    assert common <= recorded("tinker_cookbook", "ChatDatasetBuilderCommonConfig")


@pytest.mark.parametrize("trainer", ["trl", "tinker"])
def test_a_script_says_what_uv_has_to_fetch(make_run: MakeRun, tmp_path: Path, trainer: str) -> None:
    export(prepare(make_run(VALIDATED).fill()), tmp_path / "out", trainer)
    text = (tmp_path / "out" / "train.py").read_text(encoding="utf-8")
    block = text.split("# /// script\n")[1].split("# ///\n")[0]
    found = tomllib.loads("".join(line.removeprefix("# ") for line in block.splitlines(keepends=True)))
    assert found["requires-python"]
    assert found["dependencies"]
    assert "asyncgen" not in {each.split(">")[0] for each in found["dependencies"]}


def test_pairs_are_prompt_chosen_and_rejected(make_run: MakeRun, tmp_path: Path) -> None:
    made = prepare(make_run(PAIRS, job=PAIRS_JOB).fill())
    for trainer in ("trl", "axolotl", "llama-factory"):
        export(made, tmp_path / trainer, trainer)
    ours = lines(made.path / "train.jsonl")
    rows = lines(tmp_path / "trl" / "train.jsonl")
    assert [row["prompt"] for row in rows] == [row["input"]["messages"] for row in ours]
    assert [row["chosen"] for row in rows] == [row["preferred_output"] for row in ours]
    assert [row["rejected"] for row in rows] == [row["non_preferred_output"] for row in ours]
    assert json.loads((tmp_path / "trl" / "job.json").read_text())["method"] == "dpo"
    for trainer in ("axolotl", "llama-factory"):
        rows = lines(tmp_path / trainer / "train.jsonl")
        assert [[row["chosen"]] for row in rows] == [row["preferred_output"] for row in ours]
    assert yaml_of(tmp_path / "axolotl" / "axolotl.yaml")["rl"] == "dpo"
    assert yaml_of(tmp_path / "llama-factory" / "llama-factory.yaml")["stage"] == "dpo"
    for trainer in ("unsloth", "mlx", "tinker"):
        with pytest.raises(UsageError, match="pairs") as refused:
            export(made, tmp_path / trainer, trainer)
        assert "trl, axolotl, llama-factory" in (refused.value.help_text or "")


def test_pairs_and_scored_samples_make_a_plain_folder_too(make_run: MakeRun, tmp_path: Path) -> None:
    made = prepare(make_run(PAIRS, job=PAIRS_JOB).fill())
    records = ordered_records(made.directory.record_files(), None)
    exported = export_prepared_folder(tmp_path / "hub", made.directory, made.opened, records)
    assert exported.rows == len(lines(made.path / "train.jsonl"))
    assert set(lines(tmp_path / "hub" / "data" / "train.jsonl")[0]) == {"prompt", "chosen", "rejected"}
    assert "`rejected`: the worse answer" in (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")


CALL = {"id": "c1", "type": "function", "function": {"name": "book", "arguments": '{"city": "Rome"}'}}


def test_reasoning_and_calls_stand_in_each_trainers_field(make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run('[dataset]\nreasoning = "thinking"\n')
    made.fill(lambda record: msgspec.structs.replace(record, reasoning="Hm.", tool_calls=[CALL]))
    with open_run(made.path) as run:
        # no provider's rules: what each of them takes is another matter
        prepare_run(run, made.opened.job, made.opened.grid, provider=PROFILES["custom"], prices=PriceList())
    for trainer in TRAINERS:
        export(made, tmp_path / trainer, trainer)
    answer = lines(tmp_path / "trl" / "train.jsonl")[0]["completion"][0]
    assert answer["reasoning_content"] == "Hm."
    assert answer["tool_calls"][0]["function"]["arguments"] == {"city": "Rome"}
    for trainer in ("axolotl", "unsloth", "mlx"):
        answer = lines(tmp_path / trainer / "train.jsonl")[0]["messages"][-1]
        assert answer["reasoning_content"] == "Hm."
        assert answer["tool_calls"]
    fields = yaml_of(tmp_path / "axolotl" / "axolotl.yaml")["datasets"][0]
    assert fields["field_thinking"] == "reasoning_content"
    answer = lines(tmp_path / "llama-factory" / "train.jsonl")[0]["messages"][-1]
    assert answer["content"].startswith("<think>\nHm.\n</think>\n\nAnswer")
    answer = lines(tmp_path / "tinker" / "train.jsonl")[0]["messages"][-1]
    assert answer["content"][0] == {"type": "thinking", "thinking": "Hm."}


def test_texts_of_the_completion_format_stay_texts_where_the_trainer_takes_them(
    make_run: MakeRun, tmp_path: Path
) -> None:
    made = prepare(make_run('[dataset]\nformat = "completion"\n').fill())
    ours = lines(made.path / "train.jsonl")
    for trainer in TRAINERS:
        export(made, tmp_path / trainer, trainer)
    for trainer in ("trl", "axolotl"):
        assert lines(tmp_path / trainer / "train.jsonl") == ours
    for trainer in ("unsloth", "llama-factory", "mlx", "tinker"):
        user, answer = conversation(lines(tmp_path / trainer / "train.jsonl")[0])
        assert user["content"] + " -->" == ours[0]["prompt"]
        assert f" {answer['content']}\n" == ours[0]["completion"]


def test_every_answer_of_a_conversation_is_learnt(make_run: MakeRun, tmp_path: Path) -> None:
    job = (
        'name = "talks"\n[grid]\ncity = ["Brussels", "Paris"]\n[prompt]\nuser = "Talk of {city}."\n'
        '[answer]\nformat = "json"\nmessages = "turns"\n'
    )
    made = make_run(job=job)
    turns = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]
    turns += [{"role": "user", "content": "C"}, {"role": "assistant", "content": "D"}]
    made.fill(lambda record: msgspec.structs.replace(record, completion=json.dumps({"turns": [*turns, *turns[:1],
              {"role": "assistant", "content": str(record.index)}]})))  # fmt: skip
    prepare(made)
    for trainer in TRAINERS:
        export(made, tmp_path / trainer, trainer)
    learnt = [row["completion"][0]["content"] for row in lines(tmp_path / "trl" / "train.jsonl")]
    assert learnt == ["B", "D", "0", "B", "D", "1"]
    assert [row["messages"][-1]["content"] for row in lines(tmp_path / "mlx" / "train.jsonl")] == learnt
    for trainer in ("axolotl", "unsloth", "llama-factory", "tinker"):
        assert len(lines(tmp_path / trainer / "train.jsonl")) == 2


def test_a_model_without_weights_is_refused_with_the_way_out(make_run: MakeRun, tmp_path: Path) -> None:
    made = prepare(make_run('[finetune]\nmodel = "gpt-4.1-mini"\n').fill())
    with pytest.raises(UsageError, match=r"gpt-4\.1-mini") as refused:
        export(made, tmp_path / "out", "trl", None)
    assert "--model" in (refused.value.help_text or "")
    assert not (tmp_path / "out").exists()
    plan = export(prepare(make_run(name="other").fill()), tmp_path / "out", "trl", None).plan
    assert plan is not None
    assert plan.model == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_tools_are_not_lost_without_a_word(make_run: MakeRun, tmp_path: Path) -> None:
    tool = '[{type = "function", function = {name = "book", parameters = {type = "object"}}}]'
    made = prepare(make_run(f"[generate.parameters]\ntools = {tool}\n").fill())
    with pytest.raises(UsageError, match="tools"):
        export(made, tmp_path / "tinker", "tinker")
    export(made, tmp_path / "trl", "trl")
    assert json.loads(lines(tmp_path / "trl" / "train.jsonl")[0]["tools"])[0]["function"]["name"] == "book"
    export(made, tmp_path / "factory", "llama-factory")
    assert json.loads((tmp_path / "factory" / "dataset_info.json").read_text())["asyncgen"]["columns"]["tools"]


def test_without_a_dataset_prepare_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no dataset") as refused:
        export(make_run().fill(), tmp_path / "out", "trl")
    assert "asyncgen prepare" in (refused.value.help_text or "")


def test_what_a_training_left_in_the_folder_is_never_replaced(make_run: MakeRun, tmp_path: Path) -> None:
    made = prepare(make_run(VALIDATED).fill())
    export(made, tmp_path / "out", "trl")
    (tmp_path / "out" / "output").mkdir()
    (tmp_path / "out" / "output" / "adapter.safetensors").write_bytes(b"hours of work")
    with pytest.raises(UsageError, match="output"):
        export(made, tmp_path / "out", "trl")
    assert (tmp_path / "out" / "output" / "adapter.safetensors").read_bytes() == b"hours of work"


def test_yaml_has_texts_in_quotes_and_no_exponents() -> None:
    yaml = pytest.importorskip("yaml")
    settings = {"a": "no", "b": 2e-5, "c": [{"d": "x: y", "e": [1, "2"]}], "f": {"g": True, "h": 0.1}, "i": 1.0}
    settings["j"] = 'é "quoted" \U0001f600'
    assert yaml.safe_load(as_yaml(settings)) == settings


MODEL = """
import sys
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
made = Tokenizer(models.BPE())
made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
special = ["<pad>", "<s>", "</s>"]
made.train_from_iterator(["a"], trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet))
fast = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
fast.chat_template = (
    "{% for m in messages %}<s>{{ m['role'] }}\\n{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\\n{% endif %}"
)
fast.save_pretrained(sys.argv[1])
config = LlamaConfig(vocab_size=len(fast), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                     num_attention_heads=2, num_key_value_heads=2)
LlamaForCausalLM(config).save_pretrained(sys.argv[1])
"""


@pytest.mark.trl
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["answers", "pairs"])
def test_trl_trains_on_the_folder(make_run: MakeRun, tmp_path: Path, kind: str) -> None:
    python = os.environ.get("ASYNCGEN_TRL_PYTHON")
    if not python:
        pytest.skip("ASYNCGEN_TRL_PYTHON names no environment with trl and peft")
    made = make_run(PAIRS, job=PAIRS_JOB) if kind == "pairs" else make_run(VALIDATED)
    prepare(made.fill())
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    subprocess.run([python, "-c", MODEL, tmp_path / "model"], check=True, env=environment, timeout=300)
    export(made, tmp_path / "out", "trl", str(tmp_path / "model"))
    script = [python, str(tmp_path / "out" / "train.py")]
    ran = subprocess.run(script, stdout=subprocess.PIPE, text=True, check=True, env=environment, timeout=500)
    told = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith('{"')]
    steps = [message for message in told if message["type"] == "step"]
    assert steps[-1]["step"] == steps[-1]["total_steps"] == told[1]["total_steps"]
    assert told[-1]["type"] == "end"
    assert told[-1]["trained_tokens"] > 0
    assert (Path(told[-1]["path"]) / "adapter_model.safetensors").exists()
