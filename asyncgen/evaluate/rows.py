"""The rows of an evaluation, prompts that no model was trained on; and the samples of the run's dataset.

Takes the validation file of the run, or values outside the grid. A row is a combination, and the unit of the
statistics; rows that share a held-out value form a cluster. The prompt is left to `contestants`.

The samples are those of `train.jsonl` and `validation.jsonl`; few-shot examples are chosen from them, and answers that
copy a long piece of one are detected. Records are not used: they may have changed since the model was trained.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from hashlib import blake2b
from itertools import product
from typing import TYPE_CHECKING, Any

from asyncgen.dataset.split import Split, known_plan, plan_split
from asyncgen.errors import UsageError, command_line, nearest
from asyncgen.job.requests import MOST_ENUMERATED
from asyncgen.job.template import ANSWER, field_of, parse
from asyncgen.json_text import decode_loosely
from asyncgen.run.jsonl import read_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from asyncgen.job.opened import OpenedJob
    from asyncgen.run.directory import RunDirectory
    from asyncgen.run.state import DatasetState


_MOST_SEEN = 200_000  # combinations read of a larger grid, and combinations that outside values are put into
RUN_WORDS = 13
RUN_CHARACTERS = 50
_MOST_LOOKED_AT = 20_000  # samples that are searched for the nearest ones
_WIDE_WORD = 20  # characters a word, on average, beyond which a text has no words to speak of (Chinese, Thai)


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """A prompt for every contestant.

    Attributes:
        id: identifies the row in files; equal for equal prompts.
        prompt: the short prompt; of a conversation, its last question.
        variables: of the combination; empty for a prompt that was made of an answer.
        cluster: rows with the same cluster are not independent.
        turns: the short prompt as messages, without the system message.
        system: system message of the dataset; None for none.
        expected: the only right answer, if it is a label; None otherwise.
    """

    id: str
    prompt: str
    variables: Mapping[str, str]
    cluster: str
    turns: tuple[Mapping[str, Any], ...]
    system: str | None = None
    expected: str | None = None


@dataclass(frozen=True, slots=True)
class RowChoice:
    """The chosen rows.

    Attributes:
        rows: in the order of the seed.
        source: where they are from, for the reader.
        cluster_name: what the clusters are values of; "" if every row is its own cluster.
        possible: number of rows to choose from.
    """

    rows: tuple[EvaluationRow, ...]
    source: str
    cluster_name: str
    possible: int

    @property
    def clusters(self) -> int:
        return len({row.cluster for row in self.rows})


def parse_axes(given: Iterable[str]) -> dict[str, list[str]]:
    """Parse the values of --axis.

    Args:
        given: texts such as `sector=Hotel,Bakery`.

    Returns:
        Axis name to values, without duplicates.

    Raises:
        UsageError: a text does not have that form.
    """
    axes: dict[str, list[str]] = {}
    for text in given:
        name, equals, listed = text.partition("=")
        values = [value.strip() for value in listed.split(",") if value.strip()]
        if not equals or not values:
            raise UsageError(f"--axis {text!r} names no values", help_text="--axis 'sector=Hotel,Bakery'")
        axes.setdefault(name.strip(), []).extend(value for value in values if value not in axes.get(name.strip(), ()))
    return axes


def answers_are_targets(opened: OpenedJob) -> bool:
    """Whether the tuned model is trained on the job's answers, with a prompt made of variables alone.

    Otherwise (a label for a text, the pairs of a list, conversations) the long prompt is for another task than the
    tuned model's, and rows can only be samples of the validation side.
    """
    job, grid = opened.job, opened.grid
    asks_answer = any(name == ANSWER or field_of(name) for name in grid.sample.names) and not grid.answer_is_variable
    is_conversation = job.answer.messages or job.prompt.messages
    return not (asks_answer or is_conversation or job.answer.each or job.prompt.target not in {None, "{answer}"})


def choose_rows(
    opened: OpenedJob,
    directory: RunDirectory,
    dataset: DatasetState,
    axes: Mapping[str, Sequence[str]],
    *,
    most: int,
    seed: int,
    trained: bool = False,
) -> RowChoice:
    """Choose rows that are not prompts of the run's training file.

    A larger `most` includes the rows of a smaller one.

    Args:
        opened: the run's job.
        directory: of the run.
        dataset: as prepared last.
        axes: axis to values outside the grid; empty for the validation split.
        most: maximum number of rows.
        seed: of the choice.
        trained: if nothing was held out, use prompts of the training file.

    Returns:
        The rows.

    Raises:
        UsageError: there are none, or the axes are invalid.
    """
    if axes:
        _refuse_axes(opened, axes)
        candidates, source = _outside(opened, axes), "outside the grid: " + _named(axes)
        name = " and ".join(axes)
    elif answers_are_targets(opened):
        candidates, source = _validating(opened, directory), "the validation file of the run"
        name = " and ".join(opened.job.dataset.hold_out)
    else:
        candidates, source, name = (
            _of_samples(opened, directory.validation, dataset),
            "the validation file of the run",
            "",
        )
    unique = {row.id: row for row in candidates}
    for sample in read_samples(directory.train, dataset):
        unique.pop(_id_of(sample), None)
    if not unique and trained and not axes:
        unique = {row.id: row for row in _trained(opened, directory, dataset)}
        source = "prompts that it was trained on, because none were held out"
    if not unique:
        raise _nothing(directory, axes)
    chosen = heapq.nsmallest(most, unique.values(), lambda row: seeded_order(seed, row.id))
    clustered = len({row.cluster for row in chosen}) < len(chosen)
    return RowChoice(tuple(chosen), source, name if clustered else "", len(unique))


def _named(axes: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{name} {', '.join(values)}" for name, values in axes.items())


def _nothing(directory: RunDirectory, axes: Mapping[str, Sequence[str]]) -> UsageError:
    if axes:
        return UsageError("every prompt with these values is in the training file", help_text="choose other values")
    return UsageError(
        f"{directory.path} has no rows that were held out from training",
        help_text="use values outside the grid with --axis 'NAME=VALUE,VALUE'; or set validation = 0.1 under "
        "[dataset], with more different prompts if it is set already, and run "
        f"`{command_line('prepare', directory.path)}` again",
        code="nothing_held_out",
    )


def _refuse_axes(opened: OpenedJob, axes: Mapping[str, Sequence[str]]) -> None:
    """Check that these values are of axes in the prompt, and are outside the grid or held out."""
    grid = opened.grid
    if not answers_are_targets(opened):
        raise UsageError(
            "--axis cannot be used here: the short prompts of this job are made of answers",
            help_text="leave --axis out to evaluate on the validation file",
        )
    held = {name: set(map(str, values)) for name, values in opened.job.dataset.hold_out.items()}
    for name, values in axes.items():
        if name not in grid.names:
            near = nearest(name, grid.names)
            raise UsageError(
                f"the job has no axis {name!r}" + (f" (did you mean {near!r}?)" if near else ""),
                help_text=f"its axes are {', '.join(grid.names)}",
            )
        if name not in grid.sample.names:
            raise UsageError(f"the short prompt does not use {name!r}, so its values do not change the prompts")
        known = set(grid.values_of(name, MOST_ENUMERATED)) - held.get(name, set())
        if inside := [value for value in values if value in known]:
            raise UsageError(
                f"{name} {', '.join(inside)}: already in the grid, so models are trained on it",
                help_text="choose values that the job does not have",
            )


def _validating(opened: OpenedJob, directory: RunDirectory) -> Iterator[EvaluationRow]:
    settings, grid = opened.job.dataset, opened.grid
    plan = known_plan(directory.read_state()) or plan_split(grid, settings, None)
    split = Split(plan, settings.hold_out)
    for variables in _combinations(opened):
        if split.validates(variables):
            values = [variables[name] for name in settings.hold_out if name in variables]
            yield _row(opened, variables, ", ".join(values) if split.holds_out(variables) else "")


def _trained(opened: OpenedJob, directory: RunDirectory, dataset: DatasetState) -> Iterator[EvaluationRow]:
    if answers_are_targets(opened):
        return (_row(opened, variables, "") for variables in _combinations(opened))
    return _of_samples(opened, directory.train, dataset)


def _combinations(opened: OpenedJob) -> Iterator[dict[str, str]]:
    grid = opened.grid
    all_of_them = grid.requests() if grid.count <= MOST_ENUMERATED else grid.sample_evenly(_MOST_SEEN)
    return (grid.variables(request) for request in all_of_them if request.repeat == 0)


def _outside(opened: OpenedJob, axes: Mapping[str, Sequence[str]]) -> Iterator[EvaluationRow]:
    """Every combination, with the values in place of those of the axes."""
    grid = opened.grid
    rest = {
        tuple(value for name, value in grid.variables(request).items() if name not in axes)
        for request in grid.sample_evenly(_MOST_SEEN)
    }
    others = [name for name in grid.names if name not in axes]
    for values in product(*axes.values()):
        given = dict(zip(axes, values, strict=True))
        for other in rest:
            variables = given | dict(zip(others, other, strict=True))
            yield _row(opened, {name: variables[name] for name in grid.names}, ", ".join(values))


def _row(opened: OpenedJob, variables: dict[str, str], cluster: str) -> EvaluationRow:
    prompt = opened.grid.sample.render(variables)
    system = opened.job.dataset.system
    return EvaluationRow(
        id=_id(prompt),
        prompt=prompt,
        variables=variables,
        cluster=cluster or _id(prompt),
        turns=({"role": "user", "content": prompt},),
        system=parse(system).render(variables) if system else None,
    )


def _of_samples(opened: OpenedJob, samples: Path, dataset: DatasetState) -> Iterator[EvaluationRow]:
    """Rows from the samples of a file; if the target is a label, it is the only right answer."""
    target = opened.grid.target.names
    is_label = not any(name == ANSWER or field_of(name) for name in target)
    for sample in read_samples(samples, dataset):
        yield _row_of(sample, expected=sample.answer if is_label else None)


def _row_of(sample: DatasetSample, *, expected: str | None) -> EvaluationRow:
    name = _id_of(sample)
    return EvaluationRow(name, sample.prompt, {}, name, sample.turns, sample.system, expected)


def _id_of(sample: DatasetSample) -> str:
    return _id(sample.prompt if len(sample.turns) == 1 else repr(sample.turns))


def _id(text: str) -> str:
    return seeded_order(0, text).hex()


@dataclass(frozen=True, slots=True)
class DatasetSample:
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


def read_samples(path: Path, dataset: DatasetState) -> Iterator[DatasetSample]:
    """The samples of a file that `prepare` wrote; samples that are not text, such as tool calls, are skipped.

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


def _of_completion(sample: Mapping[str, Any], dataset: DatasetState) -> DatasetSample:
    prompt = str(sample["prompt"]).removesuffix(dataset.separator)
    answer = str(sample.get("completion", "")).removesuffix(dataset.ending).strip()
    return DatasetSample(prompt, answer, ({"role": "user", "content": prompt},))


def _of_chat(sample: Mapping[str, Any]) -> DatasetSample | None:
    if "messages" in sample:
        *asked, last = sample["messages"]
    else:  # a preference sample: the better answer counts
        asked, last = sample["input"]["messages"], sample["preferred_output"][0]
    system = asked[0]["content"] if asked and asked[0]["role"] == "system" else None
    turns = tuple(asked[1:] if system is not None else asked)
    if not turns or not isinstance(last.get("content"), str) or not isinstance(turns[-1].get("content"), str):
        return None
    return DatasetSample(turns[-1]["content"], last["content"].strip(), turns, system)


def seeded_order(seed: int, text: str) -> bytes:
    """The position of a text in the seed's order, independent of all other texts."""
    return blake2b(f"{seed}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


def seeded_examples(samples: Iterable[DatasetSample], count: int, seed: int) -> list[DatasetSample]:
    """Samples of different prompts, the same ones for the same seed."""
    by_prompt = {sample.prompt: sample for sample in heapq.nsmallest(8 * count, samples, lambda s: _place(seed, s))}
    return list(by_prompt.values())[:count]


def _place(seed: int, sample: DatasetSample) -> bytes:
    return seeded_order(seed, f"{sample.prompt}\0{sample.answer}")


class NearestExamples:
    """Finds the samples whose prompts share most words with another prompt.

    Args:
        samples: of a training file; of more than 20,000 a seeded choice is used.
        seed: decides between samples that are equally near.
    """

    def __init__(self, samples: Iterable[DatasetSample], seed: int) -> None:
        chosen = heapq.nsmallest(_MOST_LOOKED_AT, samples, lambda sample: _place(seed, sample))
        by_prompt = {sample.prompt: sample for sample in reversed(chosen)}
        self._samples = [(frozenset(_words(sample.prompt)), sample) for sample in reversed(by_prompt.values())]

    def of(self, prompt: str, count: int) -> list[DatasetSample]:
        """The nearest samples, the very nearest last: models stay close to what they read last."""
        words = frozenset(_words(prompt))
        near = heapq.nlargest(count, enumerate(self._samples), lambda each: (_alike(words, each[1][0]), -each[0]))
        return [sample for _, (_, sample) in reversed(near)]


def _alike(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other) if one and other else 0.0


def _words(text: str) -> list[str]:
    return ["".join(filter(str.isalnum, word)) or word for word in text.casefold().split()]


def word_sequences(text: str) -> set[int]:
    """Hashes of all sequences of 13 words of a text; of 50 characters if it is written without spaces."""
    words = _words(text)
    if words and len(text) / len(words) > _WIDE_WORD:
        flat = "".join(words)
        return {hash(flat[at : at + RUN_CHARACTERS]) for at in range(len(flat) - RUN_CHARACTERS + 1)}
    return {hash(tuple(words[at : at + RUN_WORDS])) for at in range(len(words) - RUN_WORDS + 1)}


def copies_of_samples(texts: Sequence[str], samples: Iterable[DatasetSample]) -> list[bool]:
    """Find the texts that share a long sequence of words with the answer of a sample.

    Memory grows with the texts, not with the samples.
    """
    runs = [word_sequences(text) for text in texts]
    wanted = set().union(*runs)
    seen: set[int] = set()
    if wanted:
        for sample in samples:
            seen |= wanted & word_sequences(sample.answer)
    return [not seen.isdisjoint(each) for each in runs]
