"""Real LoRA training of a small language model, in numpy, in a process of its own.

Read in this order: `train` (the whole course), `packing` and `trunk` (what makes it fast enough for two cores),
`model` over `layers` and `lora` (forward and backward), `adamw` and `schedule` (the step). `architecture` over `gguf`
reads what the model is, `weights` over `decoding` its numbers. `__main__` is the process: it takes a JSON file and
tells how it goes in JSON lines.

The room knows token ids and which of them are to be learnt; it knows nothing of text, chats, HTTP or jobs. Whoever
imports only this package gets `describe` and does not load numpy.
"""

from asyncgen.serve.training.architecture import ModelDescription, describe
from asyncgen.serve.training.config import TrainingError

__all__ = ["ModelDescription", "TrainingError", "describe"]
