# /// script
# requires-python = ">=3.11"
# dependencies = ["trl>=1.16", "peft>=0.17", "torch>=2.5", "datasets>=3"]
# ///
"""Tune a model with TRL on a GPU or the CPU: `python train_with_trl.py FOLDER`, or `uv run train_with_trl.py FOLDER`.

FOLDER holds `train.jsonl`, `validation.jsonl` (optional) and `job.json` as `docs/trainer-protocol.md` tells; how it
goes is told on stdout, in JSON lines. The loss is that of the answers alone. Stands by itself: it is run outside of
asyncgen, too, and imports nothing of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

BASE_LEARNING_RATE = 2e-4  # for a learning_rate_multiplier of 1
RANK = 16
LONGEST = 1024
EPOCHS, BATCH = 3, 8
HUB_NAMES = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}


def tell(kind: str, **fields: Any) -> None:
    """One message, at once; what is not known is left out."""
    message = {"type": kind} | {name: value for name, value in fields.items() if value is not None}
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The lines of a file as prompt and completion, of which TRL learns the completion alone."""
    samples = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip():
            continue
        row = json.loads(line)
        if "messages" in row:
            messages = [{"role": turn["role"], "content": turn["content"]} for turn in row["messages"]]
            row = {"prompt": messages[:-1], "completion": messages[-1:]}
        samples.append({"prompt": row["prompt"], "completion": row["completion"]})
    return samples


def chosen(job: dict[str, Any]) -> dict[str, Any]:
    """The hyperparameters, decided where the job leaves them open."""
    wanted = {name: value for name, value in job["hyperparameters"].items() if value != "auto"}
    return {"n_epochs": EPOCHS, "batch_size": BATCH, "learning_rate_multiplier": 1.0} | wanted


def train(folder: Path) -> None:
    """Train as the folder's job says."""
    from datasets import Dataset  # noqa: PLC0415 - heavy, and not of asyncgen's environment
    from peft import LoraConfig  # noqa: PLC0415 - likewise
    from transformers import TrainerCallback  # noqa: PLC0415 - likewise
    from trl import SFTConfig, SFTTrainer  # noqa: PLC0415 - likewise

    class Telling(TrainerCallback):  # type: ignore[misc] # of a library without types here
        """The trainer's log as messages."""

        valid_loss: float | None = None

        def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, Any], **_: Any) -> None:
            if "eval_loss" in logs:
                self.valid_loss = logs["eval_loss"]
            if "loss" in logs:
                tell(
                    "step",
                    step=state.global_step,
                    total_steps=state.max_steps,
                    epoch=max(1, -(-state.global_step * epochs // max(1, state.max_steps))),
                    train_loss=logs["loss"],
                    train_mean_token_accuracy=logs.get("mean_token_accuracy"),
                    learning_rate=logs.get("learning_rate"),
                    grad_norm=logs.get("grad_norm"),
                )

        def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            tell("checkpoint", step=state.global_step, epoch=round(state.epoch), path=str(path),
                 full_valid_loss=self.valid_loss)  # fmt: skip

    job = json.loads((folder / "job.json").read_bytes())
    wanted = chosen(job)
    epochs = int(wanted["n_epochs"])
    samples = read_samples(folder / "train.jsonl")
    validation = read_samples(folder / "validation.jsonl") if (folder / "validation.jsonl").exists() else []
    rate = BASE_LEARNING_RATE * wanted["learning_rate_multiplier"]
    model = HUB_NAMES.get(job["model"], job["model"])
    tell("progress", message=f"{model}: LoRA of rank {RANK}, learning rate {rate:g}")
    output = folder / "output"
    config = SFTConfig(
        output_dir=str(output),
        num_train_epochs=epochs,
        per_device_train_batch_size=int(wanted["batch_size"]),
        learning_rate=rate,
        lr_scheduler_type="cosine",
        warmup_ratio=0.1,
        max_length=LONGEST,
        completion_only_loss=True,
        logging_steps=1,
        save_strategy="epoch",
        eval_strategy="epoch" if validation else "no",
        seed=job["seed"],
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(samples),
        eval_dataset=Dataset.from_list(validation) if validation else None,
        peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[Telling()],
    )
    tell("start", total_steps=epochs * -(-len(samples) // int(wanted["batch_size"])), train_samples=len(samples),
         validation_samples=len(validation), **wanted)  # fmt: skip
    trainer.train()
    trainer.save_model(str(output / "adapter"))
    tell("end", path=str(output / "adapter"), trained_tokens=int(trainer.state.num_input_tokens_seen or 0))


if __name__ == "__main__":
    try:
        train(Path(sys.argv[1]))
    except Exception as error:  # noqa: BLE001 - whatever it is, the server has to hear of it
        tell("error", message=f"{type(error).__name__}: {error}")
        sys.exit(1)
