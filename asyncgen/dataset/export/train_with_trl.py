# /// script
# requires-python = ">=3.11"
# dependencies = ["trl>=1.16", "peft>=0.17", "torch>=2.5", "datasets>=4.7"]
# ///
"""Tune a model with TRL on a GPU or the CPU: `uv run train.py`, or `python train.py` where TRL and PEFT are installed.

One argument: the folder with `train.jsonl`, `validation.jsonl` (optional) and `job.json`, as `docs/trainer-protocol.md`
tells; left out, the folder of this script. How it goes is told on stdout, in JSON lines. The loss is that of the
answers alone. Stands by itself: it is run outside of asyncgen, too, and imports nothing of it.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = Path(__file__)
HUB_NAMES = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
RATES = {"supervised": 2e-4, "dpo": 5e-6}  # for a learning_rate_multiplier of 1
DEFAULTS = {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.0, "rank": 16}
LONGEST = 1024
_KEPT = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name")


def tell(kind: str, **fields: Any) -> None:
    """One message, at once; what is not known is left out."""
    message = {"type": kind} | {name: value for name, value in fields.items() if value is not None}
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The lines of a file as prompt and completion, of which TRL learns the completion alone; or as pairs."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return [sample for line in lines if line.strip() for sample in samples_of(json.loads(line))]


def samples_of(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What TRL learns from a line: each answer of a conversation, given all before it."""
    if "messages" not in row:
        yield {name: row[name] for name in ("prompt", "completion", "chosen", "rejected", "tools") if name in row}
        return
    turns = [as_templates_take_it(turn) for turn in row["messages"]]
    tools = {"tools": json.dumps(row["tools"])} if row.get("tools") else {}
    for place, turn in enumerate(turns):
        if place and turn["role"] == "assistant" and row["messages"][place].get("weight", 1):
            yield {"prompt": turns[:place], "completion": [turn], **tools}


def as_templates_take_it(turn: dict[str, Any]) -> dict[str, Any]:
    """A message under the names of chat templates: thoughts as reasoning_content, arguments of calls as objects."""
    message = {"content": ""} | {name: turn[name] for name in _KEPT if turn.get(name) is not None}
    if turn.get("thinking"):
        message["reasoning_content"] = turn["thinking"]
    if "tool_calls" in message:
        message["tool_calls"] = [_parsed(call) for call in message["tool_calls"]]
    return message


def _parsed(call: dict[str, Any]) -> dict[str, Any]:
    function = dict(call.get("function") or {})
    if isinstance(function.get("arguments"), str):
        with suppress(ValueError):  # the template shows it as the text that it is
            function["arguments"] = json.loads(function["arguments"])
    return {**call, "function": function}


def chosen(job: dict[str, Any]) -> dict[str, Any]:
    """The hyperparameters, decided where the job leaves them open."""
    wanted = {name: value for name, value in job["hyperparameters"].items() if value != "auto"}
    return DEFAULTS | wanted


def train(folder: Path) -> None:
    """Train as the folder's job says."""
    import torch  # noqa: PLC0415 - heavy, and not of asyncgen's environment
    from datasets import Dataset  # noqa: PLC0415 - likewise
    from peft import LoraConfig  # noqa: PLC0415 - likewise
    from transformers import TrainerCallback  # noqa: PLC0415 - likewise
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer  # noqa: PLC0415 - likewise
    from trl.trainer.utils import remove_none_values  # noqa: PLC0415 - likewise

    class Telling(TrainerCallback):  # type: ignore[misc] # of a library without types here
        """The trainer's log as messages."""

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

    def table(samples: list[dict[str, Any]]) -> Any:
        found = Dataset.from_list(samples)
        return found.with_transform(remove_none_values) if any("tools" in sample for sample in samples) else found

    job = json.loads((folder / "job.json").read_bytes())
    method = job.get("method", "supervised")
    wanted = chosen(job)
    epochs, batch, rank = int(wanted["n_epochs"]), int(wanted["batch_size"]), int(wanted["rank"])
    rate = float(wanted.get("learning_rate") or RATES[method] * wanted["learning_rate_multiplier"])
    model = HUB_NAMES.get(job["model"], job["model"])
    samples, validation = read_samples(folder / "train.jsonl"), read_samples(folder / "validation.jsonl")
    longest = int(job.get("max_length") or LONGEST)
    tell("progress", message=f"{model}: LoRA of rank {rank}, learning rate {rate:g}, at most {longest} tokens a sample")
    common: dict[str, Any] = {
        "output_dir": str(folder / "output"),
        "num_train_epochs": epochs,
        "per_device_train_batch_size": batch,
        "per_device_eval_batch_size": batch,
        "learning_rate": rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,  # below 1: of all steps
        "max_length": longest,
        "logging_steps": 1,
        "save_strategy": "epoch",
        "eval_strategy": "epoch" if validation else "no",
        "seed": int(job.get("seed") or 0),
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
    }
    if method == "dpo":
        kind, config = DPOTrainer, DPOConfig(**common, beta=float(wanted.get("beta") or 0.1))
    else:
        kind, config = SFTTrainer, SFTConfig(**common, completion_only_loss=True)
    telling = Telling()
    trainer = kind(
        model=model,
        args=config,
        train_dataset=table(samples),
        eval_dataset=table(validation) if validation else None,
        peft_config=LoraConfig(
            r=rank,
            lora_alpha=int(wanted.get("alpha") or 2 * rank),
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
        callbacks=[telling],
    )
    settings = {name: wanted[name] for name in ("n_epochs", "batch_size", "learning_rate_multiplier")}
    tell("start", total_steps=epochs * -(-len(samples) // batch), train_samples=len(samples),
         validation_samples=len(validation), **settings)  # fmt: skip
    trainer.train()
    adapter = folder / "output" / "adapter"
    trainer.save_model(str(adapter))
    tell("end", path=str(adapter.absolute()), trained_tokens=telling.tokens)


if __name__ == "__main__":
    try:
        train(Path(sys.argv[1]) if len(sys.argv) > 1 else SCRIPT.parent)
    except Exception as error:  # noqa: BLE001 - whatever it is, the server has to hear of it
        tell("error", message=f"{type(error).__name__}: {error}")
        sys.exit(1)
