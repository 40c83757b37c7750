"""A training's loss as a picture; needs the extra `plot`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncgen.errors import UsageError
from asyncgen.whole_file import replacing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from asyncgen.finetune.loss_curve import Point


def draw_losses(points: Sequence[Point], path: Path, title: str) -> None:
    """Write the curves of training and validation loss to `path` as PNG.

    Raises:
        UsageError: matplotlib is not installed.
        DiskError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UsageError(
            "a picture needs matplotlib", help_text="pip install 'asyncgen[plot]'", code="no_extra"
        ) from error
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    train = [(point.step, point.train_loss) for point in points if point.train_loss is not None]
    valid = [(point.step, point.valid_loss) for point in points if point.valid_loss is not None]
    for curve, name, marker in ((train, "training", ""), (valid, "validation", "o")):
        if curve:
            axes.plot(*zip(*curve, strict=True), label=name, marker=marker)
    axes.set(title=title, xlabel="step", ylabel="loss", ylim=(0, None))
    axes.legend()
    with replacing(path) as file:
        figure.savefig(file, format="png")
