"""The trainers that a dataset can be exported for: rows, configuration in the trainer's own names, start command.

Rows are converted so that only the answers are learnt. Facts, read in the packages' sources in November 2026: TRL 1.16
learns the completion alone of rows with `prompt` and `completion`, and all of rows with `messages`; axolotl 0.19
(`prompt_strategies/chat_template.py`, `dpo/chat_template.py`); LLaMA-Factory 0.9.5 (`data/converter.py`: `content` is
required and contains the reasoning); mlx-lm 0.32 (`tuner/datasets.py`: `mask_prompt` masks all before the last
message); tinker-cookbook 0.6 (`supervised/data.py`: `messages`, no tools; reasoning is a part of the content).

The names of the configurations are tested against the fields of the packages themselves
(`tests/dataset/export/fields/`, and `docs/trainers.md` for how these are recorded). Writing files is left to
`prepared`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from asyncgen.dataset.export.train_with_tinker import SCRIPT as TINKER_SCRIPT
from asyncgen.dataset.export.train_with_trl import SCRIPT as TRL_SCRIPT
from asyncgen.dataset.export.train_with_trl import as_templates_take_it
from asyncgen.dataset.samples import COMPLETION
from asyncgen.errors import UsageError, command_line
from asyncgen.text_files import BYTE_ORDER_MARK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from asyncgen.run.state import DatasetState


Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PreparedSample:
    """One line of `train.jsonl` or `validation.jsonl`.

    Attributes:
        turns: the conversation, whose last turn is the answer; the better one of a pair.
        worse: the worse answer of a pair; None for other samples.
        tools: tools the tools offered to the model.
        pair: prompt and completion with separator and ending, if the dataset has the completion format; `turns` is the
            same without them.
    """

    turns: tuple[Message, ...]
    worse: Message | None = None
    tools: list[Any] | None = None
    pair: tuple[str, str] | None = None

    @property
    def texts(self) -> list[str]:
        """Texts whose tokens count, one per message; of two answers the longer one."""
        if self.pair is not None:
            return list(self.pair)
        *asked, answer = map(_text, self.turns)
        last = max(answer, _text(self.worse), key=len) if self.worse else answer
        return [*asked, last, *([json.dumps(self.tools)] if self.tools else ())]


def _text(message: Message) -> str:
    return "".join(
        value if isinstance(value, str) else json.dumps(value) for name, value in message.items() if name != "role"
    )


def prepared_samples(path: Path, dataset: DatasetState) -> Iterator[PreparedSample]:
    """The samples of a file of `prepare`.

    Args:
        path: `train.jsonl` or `validation.jsonl`.
        dataset: what the run notes of it.

    Raises:
        UsageError: a line is not a sample.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield _sample(orjson.loads(line.removeprefix(BYTE_ORDER_MARK)), dataset)
            except (orjson.JSONDecodeError, KeyError, TypeError, IndexError) as error:
                raise UsageError(
                    f"{path}, line {number}, is not a training sample",
                    help_text=f"{command_line('prepare', path.parent)}   (writes the file again)",
                ) from error


def _sample(row: dict[str, Any], dataset: DatasetState) -> PreparedSample:
    if "preferred_output" in row:
        asked = row["input"]
        turns = map(as_templates_take_it, [*asked["messages"], row["preferred_output"][0]])
        worse = as_templates_take_it(row["non_preferred_output"][0])
        return PreparedSample(tuple(turns), worse, asked.get("tools"))
    if dataset.format == COMPLETION:
        prompt, completion = row["prompt"], row["completion"]
        user = prompt.removesuffix(dataset.separator) if dataset.separator else prompt
        said = (completion.removesuffix(dataset.ending) if dataset.ending else completion).strip()
        turns_ = ({"role": "user", "content": user}, {"role": "assistant", "content": said})
        return PreparedSample(turns_, pair=(prompt, completion))
    return PreparedSample(tuple(map(as_templates_take_it, row["messages"])), tools=row.get("tools"))


def trl_rows(sample: PreparedSample) -> Iterator[dict[str, Any]]:
    """TRL: an answer each, with all before it as its prompt; pairs as `chosen` and `rejected`."""
    if sample.pair is not None:
        yield {"prompt": sample.pair[0], "completion": sample.pair[1]}
        return
    turns = list(sample.turns)
    tools = {"tools": json.dumps(sample.tools)} if sample.tools else {}
    if sample.worse is not None:
        yield {"prompt": turns[:-1], "chosen": turns[-1:], "rejected": [sample.worse], **tools}
        return
    for place in _answers(turns):
        yield {"prompt": turns[:place], "completion": [turns[place]], **tools}


def axolotl_rows(sample: PreparedSample) -> Iterator[dict[str, Any]]:
    """axolotl: `messages`, whose assistant's turns are learnt; texts stay texts."""
    if sample.pair is not None:
        yield {"prompt": sample.pair[0], "completion": sample.pair[1]}
    else:
        yield _chat(sample)


def chat_rows(sample: PreparedSample) -> Iterator[dict[str, Any]]:
    """Unsloth: `messages`."""
    yield _chat(sample)


def mlx_rows(sample: PreparedSample) -> Iterator[dict[str, Any]]:
    """mlx-lm: a conversation for each answer, which stands last."""
    turns = list(sample.turns)
    for place in _answers(turns):
        yield {"messages": turns[: place + 1], **({"tools": sample.tools} if sample.tools else {})}


def llama_factory_rows(sample: PreparedSample) -> Iterator[dict[str, Any]]:
    """LLaMA-Factory: `messages`, thoughts inside of the content, tools as a text."""
    row = {name: value for name, value in _chat(sample).items() if name != "tools"}
    shown = {name: _inside(value) if isinstance(value, dict) else [*map(_inside, value)] for name, value in row.items()}
    yield shown | ({"tools": json.dumps(sample.tools)} if sample.tools else {})


def tinker_rows(sample: PreparedSample) -> Iterator[dict[str, Any]]:
    """Tinker's form: `messages` with lists of parts, in which reasoning is a separate part."""
    yield {"messages": [{"role": turn["role"], "content": _parts(turn)} for turn in sample.turns]}


def _chat(sample: PreparedSample) -> dict[str, Any]:
    turns = list(sample.turns)
    tools = {"tools": sample.tools} if sample.tools else {}
    if sample.worse is None:
        return {"messages": turns, **tools}
    return {"messages": turns[:-1], "chosen": turns[-1], "rejected": sample.worse, **tools}


def _answers(turns: Sequence[Message]) -> Iterator[int]:
    return (place for place, turn in enumerate(turns) if place and turn["role"] == "assistant")


def _inside(message: Message) -> Message:
    thoughts = message.get("reasoning_content")
    rest = {name: value for name, value in message.items() if name != "reasoning_content"}
    return rest | {"content": f"<think>\n{thoughts}\n</think>\n\n{message['content']}"} if thoughts else rest


def _parts(message: Message) -> list[dict[str, str]]:
    thoughts = message.get("reasoning_content")
    text = {"type": "text", "text": message["content"]}
    return [{"type": "thinking", "thinking": thoughts}, text] if thoughts else [text]


_WARMUP = 0.1  # of all steps


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerSettings:
    """Settings of a training, in no trainer's own terms.

    Attributes:
        name: name of the job.
        model: a name on the Hub, or a folder.
        method: "supervised" or "dpo".
        rows: rows of the training file.
        validation_rows: rows of the validation file; 0 if there is none.
        epochs: passes over the rows.
        rank: of the LoRA adapter.
        alpha: of the LoRA adapter.
        max_length: tokens, large enough that no sample is truncated.
        texts: rows are a prompt and a completion, not messages.
        thoughts: rows have the model's reasoning in a separate field.
        tools: rows offer tools.
    """

    name: str
    model: str
    method: str
    suffix: str | None
    rows: int
    validation_rows: int
    epochs: int
    batch_size: int
    learning_rate: float
    rank: int
    alpha: int
    max_length: int
    seed: int
    texts: bool = False
    thoughts: bool = False
    tools: bool = False
    beta: float = 0.1

    @property
    def pairs(self) -> bool:
        """Whether it learns from a better and a worse answer."""
        return self.method == "dpo"


Files = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Trainer:
    """One trainer.

    Attributes:
        title: its name in a sentence.
        rows: converts a sample to its rows.
        files: files to write next to the data, by name.
        command: command line for any folder, with the placeholder `{folder}`.
        needs: what must be installed for the command.
        validation: its name for the validation file.
        pairs: whether it learns from preferences.
        tools: whether it learns tool calls.
        measures: whether it uses the validation file.
    """

    title: str
    rows: Callable[[PreparedSample], Iterator[dict[str, Any]]]
    files: Callable[[TrainerSettings], Files]
    command: str
    needs: str
    validation: str = "validation.jsonl"
    pairs: bool = True
    tools: bool = True
    measures: bool = True


def _with_script(script: Path) -> Callable[[TrainerSettings], Files]:
    def files(plan: TrainerSettings) -> Files:
        job = json.dumps(_job(plan), indent=2, ensure_ascii=False)
        return {"job.json": f"{job}\n", "train.py": script.read_text(encoding="utf-8")}

    return files


def _job(plan: TrainerSettings) -> dict[str, Any]:
    """The job as `docs/trainer-protocol.md` has it, with what is known beyond it."""
    return {
        "model": plan.model,
        "suffix": plan.suffix,
        "method": plan.method,
        "seed": plan.seed,
        "samples": plan.rows,
        "max_length": plan.max_length,
        "hyperparameters": {
            "n_epochs": plan.epochs,
            "batch_size": plan.batch_size,
            "learning_rate": plan.learning_rate,
            "rank": plan.rank,
            "alpha": plan.alpha,
            **({"beta": plan.beta} if plan.pairs else {}),
        },
    }


def _unsloth(plan: TrainerSettings) -> Files:
    settings = {
        "model": plan.model,
        "data": {"local_dataset": ["train.jsonl"], "format_type": "chatml"},
        "training": {
            "training_type": "lora",
            "max_seq_length": plan.max_length,
            "output_dir": "output",
            "num_epochs": plan.epochs,
            "learning_rate": plan.learning_rate,
            "batch_size": plan.batch_size,
            "gradient_accumulation_steps": 1,
            "random_seed": plan.seed,
            "train_on_completions": True,
        },
        "lora": {"lora_r": plan.rank, "lora_alpha": plan.alpha},
    }
    return {"unsloth.yaml": as_yaml(settings)}


def _axolotl(plan: TrainerSettings) -> Files:
    settings: dict[str, Any] = {
        "base_model": plan.model,
        **({"rl": "dpo", "rl_beta": plan.beta} if plan.pairs else {}),
        "datasets": [_axolotl_dataset("train.jsonl", plan)],
        **({"test_datasets": [_axolotl_dataset("validation.jsonl", plan)]} if plan.validation_rows else {}),
        "dataset_prepared_path": "prepared",
        "output_dir": "output",
        "adapter": "lora",
        "lora_r": plan.rank,
        "lora_alpha": plan.alpha,
        "lora_target_linear": True,
        "sequence_len": plan.max_length,
        "train_on_inputs": False,
        "num_epochs": plan.epochs,
        "micro_batch_size": plan.batch_size,
        "gradient_accumulation_steps": 1,
        "learning_rate": plan.learning_rate,
        "lr_scheduler": "cosine",
        "warmup_ratio": _WARMUP,
        "optimizer": "adamw_torch",
        "bf16": "auto",
        "logging_steps": 1,
        "saves_per_epoch": 1,
        **({"evals_per_epoch": 1} if plan.validation_rows else {}),
        "seed": plan.seed,
    }
    return {"axolotl.yaml": as_yaml(settings)}


def _axolotl_dataset(name: str, plan: TrainerSettings) -> dict[str, Any]:
    place = {"path": name, "ds_type": "json", "split": "train"}
    if plan.texts:
        whole = "{instruction}"
        form = {"field_instruction": "prompt", "field_output": "completion", "format": whole, "no_input_format": whole}
        return {**place, "type": {"system_prompt": "", **form}}
    if plan.pairs:
        fields = {"field_messages": "messages", "field_chosen": "chosen", "field_rejected": "rejected"}
        return {**place, "type": "chat_template.default", **fields}
    thoughts = {"field_thinking": "reasoning_content", "template_thinking_key": "reasoning_content"}
    return {
        **place,
        "type": "chat_template",
        "field_messages": "messages",
        "roles_to_train": ["assistant"],
        **(thoughts if plan.thoughts else {}),
    }


def _llama_factory(plan: TrainerSettings) -> Files:
    name = "asyncgen"
    settings: dict[str, Any] = {
        "stage": "dpo" if plan.pairs else "sft",
        "do_train": True,
        "model_name_or_path": plan.model,
        "finetuning_type": "lora",
        "lora_rank": plan.rank,
        "lora_alpha": plan.alpha,
        "lora_target": "all",
        **({"pref_beta": plan.beta} if plan.pairs else {}),
        "dataset_dir": ".",
        "dataset": name,
        **({"eval_dataset": f"{name}_validation", "eval_strategy": "epoch"} if plan.validation_rows else {}),
        "cutoff_len": plan.max_length,
        "train_on_prompt": False,
        "output_dir": "output",
        "num_train_epochs": plan.epochs,
        "per_device_train_batch_size": plan.batch_size,
        "gradient_accumulation_steps": 1,
        "learning_rate": plan.learning_rate,
        "lr_scheduler_type": "cosine",
        "logging_steps": 1,
        "save_strategy": "epoch",
        "report_to": "none",
        "seed": plan.seed,
    }
    files = {name: "train.jsonl"} | ({f"{name}_validation": "validation.jsonl"} if plan.validation_rows else {})
    info = {each: _llama_factory_dataset(file, plan) for each, file in files.items()}
    return {"llama-factory.yaml": as_yaml(settings), "dataset_info.json": json.dumps(info, indent=2) + "\n"}


def _llama_factory_dataset(file: str, plan: TrainerSettings) -> dict[str, Any]:
    columns = {
        "messages": "messages",
        **({"tools": "tools"} if plan.tools else {}),
        **({"chosen": "chosen", "rejected": "rejected"} if plan.pairs else {}),
    }
    # Without tags it expects ShareGPT's field names.
    tags = {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "observation_tag": "tool",
        "function_tag": "function_call",
        "system_tag": "system",
    }
    return {"file_name": file, "formatting": "openai", "ranking": plan.pairs, "columns": columns, "tags": tags}


def _mlx(plan: TrainerSettings) -> Files:
    # It takes no file with fewer rows than a batch, and has steps in the place of epochs.
    batch = min(plan.batch_size, plan.rows, plan.validation_rows or plan.rows)
    steps = math.ceil(plan.rows / batch)
    settings = {
        "model": plan.model,
        "train": True,
        "data": ".",
        "fine_tune_type": "lora",
        "mask_prompt": True,
        "num_layers": -1,
        "lora_parameters": {"rank": plan.rank, "dropout": 0.0, "scale": plan.alpha / plan.rank},
        "batch_size": batch,
        "iters": steps * plan.epochs,
        "learning_rate": plan.learning_rate,
        "max_seq_length": plan.max_length,
        "val_batches": -1,
        "steps_per_eval": steps,
        "steps_per_report": 1,
        "save_every": steps,
        "adapter_path": "output",
        "seed": plan.seed,
    }
    return {"mlx.yaml": as_yaml(settings)}


TRAINERS: Mapping[str, Trainer] = {
    "trl": Trainer(
        "TRL",
        trl_rows,
        _with_script(TRL_SCRIPT),
        "uv run {folder}/train.py",
        "uv, which installs TRL; or `python` instead of `uv run` if trl and peft are installed",
    ),
    "unsloth": Trainer(
        "Unsloth",
        chat_rows,
        _unsloth,
        "cd {folder} && unsloth train -c unsloth.yaml",
        "pip install unsloth",
        pairs=False,
        measures=False,
    ),
    "axolotl": Trainer(
        "axolotl", axolotl_rows, _axolotl, "cd {folder} && axolotl train axolotl.yaml", "pip install axolotl"
    ),
    "llama-factory": Trainer(
        "LLaMA-Factory",
        llama_factory_rows,
        _llama_factory,
        "cd {folder} && llamafactory-cli train llama-factory.yaml",
        "pip install llamafactory",
    ),
    "mlx": Trainer(
        "mlx-lm",
        mlx_rows,
        _mlx,
        "cd {folder} && mlx_lm.lora --config mlx.yaml",
        "pip install 'mlx-lm[train]', on a Mac with Apple silicon",
        validation="valid.jsonl",
        pairs=False,
    ),
    "tinker": Trainer(
        "Tinker",
        tinker_rows,
        _with_script(TINKER_SCRIPT),
        "uv run {folder}/train.py",
        "uv, which installs the cookbook, and a key in TINKER_API_KEY; the training costs money",
        pairs=False,
        tools=False,
    ),
}


def as_yaml(settings: Mapping[str, Any]) -> str:
    """Settings as YAML that every reader takes alike: texts in quotes, no number with an exponent."""
    return "\n".join(_lines(settings, "")) + "\n"


def _lines(value: Mapping[str, Any], indent: str) -> Iterator[str]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield f"{indent}{name}:"
            yield from _lines(item, indent + "  ")
        elif isinstance(item, list):
            yield f"{indent}{name}:"
            for each in item:
                if isinstance(each, Mapping):
                    first, *others = _lines(each, indent + "    ")
                    yield from (f"{indent}  - {first.strip()}", *others)
                else:
                    yield f"{indent}  - {_scalar(each)}"
        else:
            yield f"{indent}{name}: {_scalar(item)}"


def _scalar(value: Any) -> str:
    # YAML 1.1 reads 2e-05 as a text.
    if isinstance(value, float):
        return f"{value:.12f}".rstrip("0") + "0" * value.is_integer()
    return json.dumps(value, ensure_ascii=False)
