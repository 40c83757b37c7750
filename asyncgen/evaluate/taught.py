"""What a run's dataset taught: the samples in `train.jsonl` and `validation.jsonl`.

Reads these files, chooses few-shot examples, and detects answers that copy a long piece of a sample. Records are not
used: they may have changed since the model was trained.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from asyncgen.json_text import decode_loosely
from asyncgen.run.jsonl import read_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from asyncgen.run.state import DatasetState

RUN_WORDS = 13
RUN_CHARACTERS = 50
_MOST_LOOKED_AT = 20_000  # samples among which the nearest ones are looked for
_WIDE_WORD = 20  # characters a word, on average, beyond which a text has no words to speak of (Chinese, Thai)


@dataclass(frozen=True, slots=True)
class TaughtSample:
    """A training sample in the form of a prompt and an answer.

    Attributes:
        prompt: the short prompt, without the separator; of a conversation, its last question.
        answer: the answer, without the ending.
        turns: all messages before the answer, except the system message.
        system: the system message; None if there is none.
    """

    prompt: str
    answer: str
    turns: tuple[Mapping[str, Any], ...]
    system: str | None = None


def read_samples(path: Path, dataset: DatasetState) -> Iterator[TaughtSample]:
    """The samples of a file that `prepare` wrote; one that is not text, such as a call of a tool, is passed over.

    Args:
        path: of the file; one that is not there has no samples.
        dataset: the form in which it was written.

    Raises:
        DiskError: it cannot be read.
    """
    for _, line in read_lines(path):
        sample = decode_loosely(line)
        found = _of_completion(sample, dataset) if "prompt" in sample else _of_chat(sample)
        if found is not None:
            yield found


def _of_completion(sample: Mapping[str, Any], dataset: DatasetState) -> TaughtSample:
    prompt = str(sample["prompt"]).removesuffix(dataset.separator)
    answer = str(sample.get("completion", "")).removesuffix(dataset.ending).strip()
    return TaughtSample(prompt, answer, ({"role": "user", "content": prompt},))


def _of_chat(sample: Mapping[str, Any]) -> TaughtSample | None:
    if "messages" in sample:
        *asked, last = sample["messages"]
    else:  # a pair of answers, of which the better one is learnt from
        asked, last = sample["input"]["messages"], sample["preferred_output"][0]
    system = asked[0]["content"] if asked and asked[0]["role"] == "system" else None
    turns = tuple(asked[1:] if system is not None else asked)
    if not turns or not isinstance(last.get("content"), str) or not isinstance(turns[-1].get("content"), str):
        return None
    return TaughtSample(turns[-1]["content"], last["content"].strip(), turns, system)


def order_by(seed: int, text: str) -> bytes:
    """The position of a text in the seed's order, independent of all other texts."""
    return blake2b(f"{seed}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


def seeded_examples(samples: Iterable[TaughtSample], count: int, seed: int) -> list[TaughtSample]:
    """So many samples of different prompts, the same ones for the same seed."""
    by_prompt = {sample.prompt: sample for sample in heapq.nsmallest(8 * count, samples, lambda s: _place(seed, s))}
    return list(by_prompt.values())[:count]


def _place(seed: int, sample: TaughtSample) -> bytes:
    return order_by(seed, f"{sample.prompt}\0{sample.answer}")


class NearestExamples:
    """Finds the samples whose prompts share most words with another prompt.

    Args:
        samples: of a training file; of more than 20,000 a seeded choice is used.
        seed: decides between samples that are equally near.
    """

    def __init__(self, samples: Iterable[TaughtSample], seed: int) -> None:
        chosen = heapq.nsmallest(_MOST_LOOKED_AT, samples, lambda sample: _place(seed, sample))
        by_prompt = {sample.prompt: sample for sample in reversed(chosen)}
        self._samples = [(frozenset(_words(sample.prompt)), sample) for sample in reversed(by_prompt.values())]

    def of(self, prompt: str, count: int) -> list[TaughtSample]:
        """The nearest samples, the very nearest last: models stay close to what they read last."""
        words = frozenset(_words(prompt))
        near = heapq.nlargest(count, enumerate(self._samples), lambda each: (_alike(words, each[1][0]), -each[0]))
        return [sample for _, (_, sample) in reversed(near)]


def _alike(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other) if one and other else 0.0


def _words(text: str) -> list[str]:
    return ["".join(filter(str.isalnum, word)) or word for word in text.casefold().split()]


def runs_of(text: str) -> set[int]:
    """Hashes of all sequences of 13 words of a text; of 50 characters if it is written without spaces."""
    words = _words(text)
    if words and len(text) / len(words) > _WIDE_WORD:
        flat = "".join(words)
        return {hash(flat[at : at + RUN_CHARACTERS]) for at in range(len(flat) - RUN_CHARACTERS + 1)}
    return {hash(tuple(words[at : at + RUN_WORDS])) for at in range(len(words) - RUN_WORDS + 1)}


def repeating(texts: Sequence[str], samples: Iterable[TaughtSample]) -> list[bool]:
    """Find the texts that share a long sequence of words with the answer of a sample.

    Memory grows with the texts, not with the samples.
    """
    runs = [runs_of(text) for text in texts]
    wanted = set().union(*runs)
    seen: set[int] = set()
    if wanted:
        for sample in samples:
            seen |= wanted & runs_of(sample.answer)
    return [not seen.isdisjoint(each) for each in runs]
