# /// script
# requires-python = ">=3.11"
# dependencies = ["tinker-cookbook>=0.6"]
# ///
"""Tune a model at Tinker: `uv run train.py`, with the key in TINKER_API_KEY. It costs money there.

One argument: the folder with `train.jsonl`, `validation.jsonl` (optional) and `job.json`; left out, the folder of this
script. The loss is that of the answers alone, and the validation file is measured by, never trained on. Stands by
itself: it is run outside of asyncgen, and imports nothing of it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__)
RATE, RANK, EPOCHS, BATCH = 2e-4, 16, 3, 8


def configured(folder: Path) -> Any:
    """The cookbook's configuration of the folder's job."""
    import chz  # noqa: PLC0415 - of the cookbook, and not of asyncgen's environment
    from tinker_cookbook import model_info  # noqa: PLC0415 - as above
    from tinker_cookbook.renderers import TrainOnWhat  # noqa: PLC0415 - as above
    from tinker_cookbook.supervised.data import FromConversationFileBuilder  # noqa: PLC0415 - as above
    from tinker_cookbook.supervised.train import Config  # noqa: PLC0415 - as above
    from tinker_cookbook.supervised.types import (  # noqa: PLC0415 - as above
        ChatDatasetBuilderCommonConfig,
        SupervisedDatasetBuilder,
    )

    @chz.chz
    class TwoFiles(SupervisedDatasetBuilder):  # type: ignore[misc] # of a library without types here
        """The training file, and the validation file as it is: the cookbook's own builder would split the first."""

        train: FromConversationFileBuilder
        validation: FromConversationFileBuilder | None

        def __call__(self) -> Any:
            return self.train()[0], self.validation()[0] if self.validation else None

    def built(path: Path, batch: int) -> Any:
        common = ChatDatasetBuilderCommonConfig(
            model_name_for_tokenizer=model,
            renderer_name=renderer,
            max_length=job.get("max_length"),
            batch_size=batch,
            train_on_what=TrainOnWhat.ALL_ASSISTANT_MESSAGES,
        )
        return FromConversationFileBuilder(common_config=common, file_path=str(path))

    job = json.loads((folder / "job.json").read_bytes())
    wanted = {name: value for name, value in job["hyperparameters"].items() if value != "auto"}
    model = job["model"]
    renderer = model_info.get_recommended_renderer_name(model)
    train, validation = folder / "train.jsonl", folder / "validation.jsonl"
    batch = min(int(wanted.get("batch_size", BATCH)), _lines(train))  # what is left over of a batch is not trained on
    return Config(
        log_path=str(folder / "output"),
        model_name=model,
        recipe_name="asyncgen",
        renderer_name=renderer,
        dataset_builder=TwoFiles(
            train=built(train, batch), validation=built(validation, _lines(validation)) if validation.exists() else None
        ),
        learning_rate=float(wanted.get("learning_rate") or RATE * wanted.get("learning_rate_multiplier", 1.0)),
        lora_rank=int(wanted.get("rank", RANK)),
        num_epochs=int(wanted.get("n_epochs", EPOCHS)),
        eval_every=8,
        session_name=job.get("suffix"),
    )


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def main(folder: Path) -> None:
    """Train as the folder's job says."""
    from tinker_cookbook.supervised.train import main as train  # noqa: PLC0415 - as above

    asyncio.run(train(configured(folder)))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SCRIPT.parent)
