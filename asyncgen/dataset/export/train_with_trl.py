# /// script
# requires-python = ">=3.11"
# dependencies = ["trl>=1.16", "peft>=0.17", "torch>=2.5", "datasets>=4.7"]
# ///
"""Tune a model with TRL on a GPU or the CPU: `uv run train.py`, or `python train.py` with TRL and PEFT installed.

One argument: the folder with `train.jsonl`, `validation.jsonl` (optional) and `job.json`, as described in
`docs/trainer-protocol.md`; default: the folder of this script. Progress is written to stdout as JSON lines. The loss is
computed on the answers only. Imports nothing of asyncgen, so that it runs outside of it.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = Path(__file__)
HUB_NAMES = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
RATES = {"supervised": 2e-4, "dpo": 5e-6}  # for a learning_rate_multiplier of 1
DEFAULTS = {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.0, "rank": 16}
LONGEST = 1024
Samples = list[dict[str, Any]]
_KEPT = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name")


def tell(kind: str, **fields: Any) -> None:
    """Write one message; fields that are None are left out."""
    message = {"type": kind} | {name: value for name, value in fields.items() if value is not None}
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def read_samples(path: Path) -> Samples:
    """Read a file as prompts and completions, of which TRL learns the completions only; or as preferences."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return [sample for line in lines if line.strip() for sample in samples_of(json.loads(line))]


def samples_of(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Make a sample of each answer of a conversation, with all turns before it as the prompt."""
    if "messages" not in row:
        yield {name: row[name] for name in ("prompt", "completion", "chosen", "rejected", "tools") if name in row}
        return
    turns = [as_templates_take_it(turn) for turn in row["messages"]]
    tools = {"tools": json.dumps(row["tools"])} if row.get("tools") else {}
    for place, turn in enumerate(turns):
        if place and turn["role"] == "assistant" and row["messages"][place].get("weight", 1):
            yield {"prompt": turns[:place], "completion": [turn], **tools}


def as_templates_take_it(turn: dict[str, Any]) -> dict[str, Any]:
    """Rename a message's fields for chat templates: reasoning as reasoning_content, arguments of calls as objects."""
    message = {"content": ""} | {name: turn[name] for name in _KEPT if turn.get(name) is not None}
    if turn.get("thinking"):
        message["reasoning_content"] = turn["thinking"]
    if "tool_calls" in message:
        message["tool_calls"] = [_parsed(call) for call in message["tool_calls"]]
    return message


def _parsed(call: dict[str, Any]) -> dict[str, Any]:
    function = dict(call.get("function") or {})
    if isinstance(function.get("arguments"), str):
        with suppress(ValueError):  # the template shows it as text
            function["arguments"] = json.loads(function["arguments"])
    return {**call, "function": function}


@dataclass(frozen=True)
class Settings:
    """The job, with defaults for everything that it leaves open."""

    model: str
    method: str
    epochs: int
    batch: int
    multiplier: float
    rate: float
    rank: int
    alpha: int
    beta: float
    longest: int
    seed: int


def read_settings(path: Path) -> Settings:
    """Read `job.json`."""
    job = json.loads(path.read_bytes())
    method = job.get("method", "supervised")
    wanted = DEFAULTS | {name: value for name, value in job["hyperparameters"].items() if value != "auto"}
    rank, multiplier = int(wanted["rank"]), float(wanted["learning_rate_multiplier"])
    return Settings(
        model=HUB_NAMES.get(job["model"], job["model"]),
        method=method,
        epochs=int(wanted["n_epochs"]),
        batch=int(wanted["batch_size"]),
        multiplier=multiplier,
        rate=float(wanted.get("learning_rate") or RATES[method] * multiplier),
        rank=rank,
        alpha=int(wanted.get("alpha") or 2 * rank),
        beta=float(wanted.get("beta") or 0.1),
        longest=int(job.get("max_length") or LONGEST),
        seed=int(job.get("seed") or 0),
    )


def train(folder: Path) -> None:
    """Train on the samples of the folder, as its job says, and save the adapter in `output/adapter`."""
    settings = read_settings(folder / "job.json")
    samples, validation = read_samples(folder / "train.jsonl"), read_samples(folder / "validation.jsonl")
    tell("progress", message=f"{settings.model}: LoRA of rank {settings.rank}, learning rate {settings.rate:g}, "
         f"at most {settings.longest} tokens per sample")  # fmt: skip
    trainer, reporter = make_trainer(settings, samples, validation, folder / "output")
    tell("start", total_steps=settings.epochs * -(-len(samples) // settings.batch), train_samples=len(samples),
         validation_samples=len(validation), n_epochs=settings.epochs, batch_size=settings.batch,
         learning_rate_multiplier=settings.multiplier)  # fmt: skip
    trainer.train()
    adapter = folder / "output" / "adapter"
    trainer.save_model(str(adapter))
    tell("end", path=str(adapter.absolute()), trained_tokens=reporter.tokens)


def make_trainer(settings: Settings, samples: Samples, validation: Samples, output: Path) -> tuple[Any, Any]:
    """Build TRL's trainer for a LoRA adapter, and the reporter of its progress."""
    from peft import LoraConfig  # noqa: PLC0415 - heavy, and not of asyncgen's environment
    from trl import DPOTrainer, SFTTrainer  # noqa: PLC0415 - as above

    lora = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    reporter = make_reporter(settings.epochs)
    trainer = (DPOTrainer if settings.method == "dpo" else SFTTrainer)(
        model=settings.model,
        args=training_arguments(settings, output, validates=bool(validation)),
        train_dataset=as_dataset(samples),
        eval_dataset=as_dataset(validation) if validation else None,
        peft_config=lora,
        callbacks=[reporter],
    )
    return trainer, reporter


def training_arguments(settings: Settings, output: Path, *, validates: bool) -> Any:
    """Build the arguments of the trainer: bfloat16 on GPUs that have it, a checkpoint at the end of each epoch."""
    import torch  # noqa: PLC0415 - heavy, and not of asyncgen's environment
    from trl import DPOConfig, SFTConfig  # noqa: PLC0415 - as above

    common: dict[str, Any] = {
        "output_dir": str(output),
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch,
        "per_device_eval_batch_size": settings.batch,
        "learning_rate": settings.rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,  # below 1: a share of all steps
        "max_length": settings.longest,
        "logging_steps": 1,
        "save_strategy": "epoch",
        "eval_strategy": "epoch" if validates else "no",
        "seed": settings.seed,
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
    }
    if settings.method == "dpo":
        return DPOConfig(**common, beta=settings.beta)
    return SFTConfig(**common, completion_only_loss=True)


def as_dataset(samples: Samples) -> Any:
    """Convert samples to a table; the fields that it adds to some tool calls are removed when a row is read."""
    from datasets import Dataset  # noqa: PLC0415 - heavy, and not of asyncgen's environment
    from trl.trainer.utils import remove_none_values  # noqa: PLC0415 - as above

    table = Dataset.from_list(samples)
    return table.with_transform(remove_none_values) if any("tools" in sample for sample in samples) else table


def make_reporter(epochs: int) -> Any:
    """Make a callback that writes the trainer's log as messages; `tokens` counts the trained tokens."""
    from transformers import TrainerCallback  # noqa: PLC0415 - heavy, and not of asyncgen's environment

    class Reporter(TrainerCallback):  # type: ignore[misc] # of a library without types here
        valid_loss: float | None = None
        tokens: int = 0

        def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, Any], **_: Any) -> None:
            self.tokens = int(logs.get("num_tokens") or self.tokens)
            if "eval_loss" in logs:
                self.valid_loss = logs["eval_loss"]
            if "loss" in logs:
                tell(
                    "step",
                    step=state.global_step,
                    total_steps=state.max_steps,
                    epoch=max(1, -(-state.global_step * epochs // max(1, state.max_steps))),
                    train_loss=float(logs["loss"]),
                    train_mean_token_accuracy=logs.get("mean_token_accuracy"),
                    learning_rate=logs.get("learning_rate"),
                    grad_norm=logs.get("grad_norm"),
                )

        def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            tell("checkpoint", step=state.global_step, epoch=round(state.epoch), path=str(path.absolute()),
                 full_valid_loss=self.valid_loss)  # fmt: skip

    return Reporter()


if __name__ == "__main__":
    try:
        train(Path(sys.argv[1]) if len(sys.argv) > 1 else SCRIPT.parent)
    except Exception as error:  # noqa: BLE001 - the server reports any error
        tell("error", message=f"{type(error).__name__}: {error}")
        sys.exit(1)
