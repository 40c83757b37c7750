"""The trainers that a dataset can be exported for: files, configuration in the trainer's own names, start command.

The names are tested against the fields of the packages themselves (`tests/dataset/export/fields/`, and
`docs/trainers.md` for how these are recorded). Writing files is left to `prepared`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyncgen.dataset.export.train_with_tinker import SCRIPT as TINKER_SCRIPT
from asyncgen.dataset.export.train_with_trl import SCRIPT as TRL_SCRIPT
from asyncgen.dataset.export.trainer_rows import (
    PreparedSample,
    axolotl_rows,
    chat_rows,
    llama_factory_rows,
    mlx_rows,
    tinker_rows,
    trl_rows,
)

if TYPE_CHECKING:
    from pathlib import Path

_WARMUP = 0.1  # of all steps


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerSettings:
    """What a trainer is to do, in no trainer's words.

    Attributes:
        name: of the job, for what a trainer wants to be named.
        model: on the Hub, or a folder.
        method: "supervised" or "dpo".
        rows: of the training file.
        validation_rows: 0 where there is no such file.
        epochs: how often the rows are gone through.
        rank, alpha: of the LoRA adapter.
        max_length: in tokens, so large that no sample is cut.
        texts: rows are a prompt and a completion, not messages.
        thoughts: rows have the model's reasoning in a field of its own.
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
        rows: what it reads of a sample.
        files: to be written beside the data, by name.
        command: typed in any folder, with the place `{folder}`.
        needs: what has to be installed for the command.
        validation: the name that it wants for the validation file.
        pairs: it learns from pairs.
        tools: it learns calls of tools.
        measures: it measures by the validation file.
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
    # Without tags it looks for ShareGPT's own names and finds nothing.
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
        "uv, which fetches TRL for it; or `python` in the place of `uv run` where trl and peft are installed",
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
        "uv, which fetches the cookbook for it, and a key in TINKER_API_KEY; the training costs money",
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
