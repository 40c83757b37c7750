"""LoRA training of a small language model, in numpy, in a process of its own.

Read in this order: `train` (the whole training), `packing` (what makes it fast enough for two cores), `model` over
`layers` and `lora` (forward and backward), `loop` (schedule, optimiser, epochs). `architecture` over `gguf` reads what
the model is. `__main__` is the process: it takes a JSON file and reports in JSON lines, both as `protocol` defines
them.

Works on token ids and a mask of those to learn; text, chats, HTTP and jobs are left to the callers. Importing only this
package gives `describe` and does not load numpy.
"""

from asyncgen.serve.training.architecture import ModelDescription, describe
from asyncgen.serve.training.protocol import TrainingError

__all__ = ["ModelDescription", "TrainingError", "describe"]
