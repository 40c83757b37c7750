"""The samples' file: one JSON object a line, {"tokens": [ids], "targets": [0 or 1 for each]}.

Owns reading and checking it, and the longest sample. Does not know where the tokens come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from asyncgen.json_text import decode_json
from asyncgen.serve.training.failure import TrainingError
from asyncgen.serve.training.packing import Sample

LONGEST = 1024  # tokens; longer samples are cut at their end


@dataclass(frozen=True, slots=True)
class SampleFile:
    """What a file holds.

    Attributes:
        samples: those with something to learn.
        cut: how many were longer than allowed.
        idle: how many have nothing to learn, at least not in what is left of them; they are not used.
    """

    samples: tuple[Sample, ...] = ()
    cut: int = 0
    idle: int = 0


class _Line(msgspec.Struct, frozen=True):
    tokens: list[int]
    targets: list[int]


def read_samples(path: Path, *, param: str, vocabulary: int, longest: int = LONGEST) -> SampleFile:
    """Read a file of samples.

    Args:
        path: the file.
        param: the API's name for the file, for errors.
        vocabulary: ids go from 0 to below this.
        longest: tokens of a sample.

    Raises:
        TrainingError: no such file, or a line that is not as it must be; the message gives its number.
    """
    samples, cut, idle = [], 0, 0
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise TrainingError(
            f"the tokenised {_words(param)} cannot be read", code=f"invalid_{param}", param=param, cause=error.strerror
        ) from error
    for number, line in enumerate(lines, start=1):
        try:
            sample = _sample(line, vocabulary)
        except ValueError as error:
            raise TrainingError(
                f"line {number} of the tokenised {_words(param)} is not a sample",
                code=f"invalid_{param}",
                param=param,
                cause=str(error),
            ) from error
        cut += len(sample.tokens) > longest
        sample = Sample(sample.tokens[:longest], sample.targets[:longest])
        if sample.target_count:
            samples.append(sample)
        else:
            idle += 1
    return SampleFile(tuple(samples), cut, idle)


def _words(param: str) -> str:
    """What the user calls the file; its path is the server's own."""
    return param.replace("_", " ")


def _sample(line: bytes, vocabulary: int) -> Sample:
    fields = decode_json(line, _Line)
    if len(fields.tokens) != len(fields.targets):
        raise ValueError(f"{len(fields.tokens)} tokens but {len(fields.targets)} targets")
    if fields.tokens and not 0 <= min(fields.tokens) <= max(fields.tokens) < vocabulary:
        raise ValueError(f"its token ids go beyond the vocabulary of {vocabulary}")
    if not set(fields.targets) <= {0, 1}:
        raise ValueError("targets are 0 or 1")
    targets = np.array(fields.targets, np.bool_)
    targets[:1] = False  # nothing stands before the first token that it could be predicted from
    return Sample(np.array(fields.tokens, np.int64), targets)
