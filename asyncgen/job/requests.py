"""Compile a job for one model to its requests, made lazily; and find a request by its variables or its key.

Enumeration has to be fast, since a resumed run passes over every settled row: templates are compiled to JSON pieces
once, and a row only joins pieces and hashes them. The body and the key themselves are left to `request_body`. Sending,
and which requests are settled, are left to `generate`.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import msgspec
import orjson

from asyncgen.job.answers import AS_TEXT, AnswerItem, AnswerReader
from asyncgen.job.combinations import Combinations
from asyncgen.job.request_body import (
    KEY_BYTES,
    EscapedValues,
    body_parts,
    body_renderer,
    canonical_json,
    fingerprint,
    prompt_messages,
    repeat_suffix,
    request_key,
)
from asyncgen.job.template import ANSWER, Placeholder, field_of, parse
from asyncgen.json_text import NotJsonError, decode_json
from asyncgen.run.key_set import KeySet

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from asyncgen.job.model import Job
    from asyncgen.job.tables import Row


_PASSED_AT_ONCE = 512
_FEW_ROWS = 100_000
MOST_ENUMERATED = 2_000_000  # a larger job is not enumerated just to find rows by key


class Keyed(Protocol):
    """A record or failure, by the fields that identify its row."""

    @property
    def key(self) -> str: ...

    @property
    def repeat(self) -> int: ...

    @property
    def variables(self) -> dict[str, str]: ...


KeyedRow = TypeVar("KeyedRow", bound=Keyed)


class Request(msgspec.Struct, frozen=True, gc=False):  # made for every row, in a quarter of a dataclass's time
    """One rendered prompt with its parameters.

    Attributes:
        index: its place in the grid, repeats included.
        repeat: 0 for the first repeat of a combination.
        values: the combination, in the order of `RequestGrid.names`.
        key: 16 bytes that identify it.
        body: the JSON to send.
    """

    index: int
    repeat: int
    values: Row
    key: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class SampleParts:
    """What a model is to learn from one item of an answer.

    Attributes:
        prompt: the rendered `prompt.sample`.
        target: the rendered `prompt.target`; the answer by default.
        turns: the whole conversation, in place of the two texts above, if `[answer] messages` or `[prompt] messages`
            asks for one; else None.
    """

    prompt: str
    target: str
    turns: tuple[Mapping[str, Any], ...] | None = None


class RequestGrid:
    """All requests of a job, made lazily.

    Args:
        job: checked by the loader; `generate.max_tokens` is among its parameters, under the provider's name for it.
        combinations: of its rows and axes.
        model: the model to ask.
        answers: parses the answers by the table [answer].
        sample_names: the variables of the samples' prompt if the job does not write one; None for all.
        answer_is_variable: `{answer}` in `prompt.sample` is a variable of the job, not the answer.

    Attributes:
        names: the variables, in order.
        count: number of requests, repeats included.
        excluded: number of requests that the job excludes.
        sample: template of the short prompt for the tuned model.
        target: template of what it is to answer; the answer by default.
        answer_is_variable: `{answer}` in `sample` is a variable.
        prompt_needs_answer: the samples' prompt contains placeholders of the answer.
        has_openings: requests contain the first words of their answers.
        fingerprint: part of the job to a short hash of it; two can be compared to find what changed.
    """

    def __init__(
        self,
        job: Job,
        combinations: Combinations,
        model: str,
        *,
        answers: AnswerReader = AS_TEXT,
        sample_names: Sequence[str] | None = None,
        answer_is_variable: bool = False,
    ) -> None:
        self._job = job
        self.names = combinations.names
        self.count = combinations.count * job.generate.repeats
        self.excluded = combinations.excluded * job.generate.repeats
        self.answers = answers
        self.model = model
        self.parameters: Mapping[str, Any] = dict(sorted(job.generate.parameters.items()))
        self.fingerprint = fingerprint(job, model, combinations)
        self._combinations = combinations
        self._repeats = job.generate.repeats
        self._sample_names = self.names if sample_names is None else tuple(sample_names)
        default = ", ".join(f"{{{name}}}" for name in self._sample_names)
        self.sample = parse(job.prompt.sample or default, answer_fields=True)
        self.target = parse(job.prompt.target or "{answer}", answer_fields=True)
        self.answer_is_variable = answer_is_variable and ANSWER in self.sample.names
        self._has_answer_variable = answer_is_variable
        fields = [name for name in self.sample.names if name == ANSWER or field_of(name)]
        self.prompt_needs_answer = bool(fields) and not (answer_is_variable and fields == [ANSWER])
        self._turns_at = self.names.index(job.prompt.messages) if job.prompt.messages else None
        self.has_openings = bool(job.prompt.openings)
        self._escape = EscapedValues().__getitem__
        self._index_of_key: dict[bytes, int] = {}
        self._openings = [parse(opening) for opening in job.prompt.openings]
        bodies = range(len(self._openings)) if self._openings else [None]
        self._bodies = [
            body_renderer(self.names, body_parts(job, model, opening), self._turns_at) for opening in bodies
        ]

    @property
    def form(self) -> GridForm:
        """What another process needs to make the same requests of the rows that it is sent."""
        job = msgspec.structs.replace(self._job, grid={}, rows=None, subset=None)
        return GridForm(job, self.names, self.model, self.answers, self._sample_names, self._has_answer_variable)

    def request_at(self, index: int, repeat: int, values: Row) -> Request:
        """Make the request of a row.

        Args:
            index: its place in the grid, repeats included.
            repeat: 0 for the first repeat of a combination.
            values: the combination, in the order of `names`.

        Returns:
            The request.
        """
        body = self._body_of(values, repeat)
        return Request(index, repeat, values, request_key(body, repeat), body)

    @property
    def max_output_tokens(self) -> int | None:
        """Maximum length of an answer in tokens; None if the parameters do not limit it."""
        limit = self.parameters.get("max_completion_tokens", self.parameters.get("max_tokens"))
        return limit if isinstance(limit, int) else None

    @property
    def sends_tools(self) -> bool:
        """True if the requests offer tools to the model."""
        return bool({"tools", "functions"} & self.parameters.keys())

    def longest_body(self) -> int:
        """Upper bound on the size of a request's body in bytes, computed without making any; usually exact."""
        names = self.names
        bodies = range(len(self._openings)) if self._openings else [None]
        longest = 0
        for body in (body_parts(self._job, self.model, opening) for opening in bodies):
            places = Counter(names.index(part.name) for part in body if isinstance(part, Placeholder))
            if self._turns_at is not None:
                places[self._turns_at] += 1
            fixed = sum(len(part.encode()) for part in body if not isinstance(part, Placeholder))

            def weight(position: int, value: str, places: Counter[int] = places) -> int:
                return places[position] * (len(orjson.dumps(value)) - 2) if places[position] else 0

            longest = max(longest, fixed + self._combinations.max_weight(weight))
        return longest

    @property
    def repeats(self) -> int:
        """Number of requests for each combination."""
        return self._repeats

    def values_of(self, name: str, most: int) -> list[str]:
        """Return different values of a variable, in job order.

        Args:
            name: of the variable.
            most: maximum number of values.
        """
        return self._combinations.values_of(name, most)

    def combinations(self) -> Iterator[dict[str, str]]:
        """The variables of every combination, name to value, in order; much quicker than all requests."""
        return (dict(zip(self.names, values, strict=True)) for _, values in self._combinations)

    def requests(self) -> Iterator[Request]:
        """All requests, in order."""
        return self.wanted(lambda key: True)  # noqa: ARG005 - all of them

    def sample_evenly(self, most: int) -> Iterator[Request]:
        """Yield the first repeat of some combinations, evenly spaced over the grid.

        Args:
            most: maximum number of requests.
        """
        for place, values in self._combinations.sample(most):
            body = self._body_of(values, 0)
            yield Request(place * self._repeats, 0, values, request_key(body, 0), body)

    def wanted(self, is_wanted: Callable[[bytes], bool]) -> Iterator[Request]:
        """Make the requests that the caller wants, in order.

        Args:
            is_wanted: called once with the key of every request of the grid.

        Returns:
            The requests for which it is true.
        """
        return (request for request in self.walk(is_wanted) if isinstance(request, Request))

    def walk(self, is_wanted: Callable[[bytes], bool]) -> Iterator[Request | int]:
        """Make the requests that the caller wants, and report how many were skipped.

        A resumed run skips millions of settled rows; these items let the event loop run in between, for example for
        Ctrl-C.

        Args:
            is_wanted: called once with the key of every request of the grid.

        Yields:
            A request; or the number of requests skipped since the last item, at least every few hundred.
        """
        repeats = [(repeat, repeat_suffix(repeat)) for repeat in range(self._repeats)]
        bodies, new_digest = self._bodies, blake2b(digest_size=KEY_BYTES).copy
        passed = 0
        for place, values, escaped in self._combinations.encoded(self._escape):
            for repeat, tail in repeats:
                body = bodies[self._turn(values, repeat) if len(bodies) > 1 else 0](escaped)
                digest = new_digest()  # copying an empty one is cheaper than making one
                digest.update(body + tail)
                key = digest.digest()
                if is_wanted(key):
                    if passed:
                        yield passed
                        passed = 0
                    yield Request(place * self._repeats + repeat, repeat, values, key, body)
                else:
                    passed += 1
                    if passed == _PASSED_AT_ONCE:
                        yield passed
                        passed = 0
        if passed:
            yield passed

    def variables(self, request: Request) -> dict[str, str]:
        """Return the variables of a request, name to value.

        Args:
            request: of this grid.
        """
        return dict(zip(self.names, request.values, strict=True))

    def prompt(self, request: Request) -> str:
        """Render the short prompt for the tuned model, as far as it is known before the answer.

        Args:
            request: of this grid.

        Returns:
            The prompt; placeholders of the answer are left as they are.
        """
        variables = self.variables(request)
        if self._turns_at is not None and self._job.prompt.sample is None:
            return _last_text(self._turns(variables))
        if self.prompt_needs_answer:
            variables = self._with_answer(variables, {name: f"{{{name}}}" for name in self.sample.names})
        return self.sample.render(variables)

    def prompt_of(self, variables: Mapping[str, str], completion: str) -> str:
        """Render the prompt of a record: that of the first sample from its answer.

        Args:
            variables: of the row.
            completion: the answer.

        Returns:
            The prompt; placeholders of an answer that cannot be parsed are "".
        """
        if self._turns_at is None and not self.prompt_needs_answer:
            return self.sample.render(variables)
        read = next(self.samples(variables, completion), None)
        return (read or self._unread(variables, completion)).prompt

    def samples(self, variables: Mapping[str, str], completion: str) -> Iterator[SampleParts]:
        """Make what there is to learn from an answer.

        Args:
            variables: of its row.
            completion: the answer as it is in the record.

        Returns:
            One item per sample; none if the answer is not in the job's form.
        """
        return (self._parts(variables, item) for item in self.answers.read(completion).items)

    def _unread(self, variables: Mapping[str, str], completion: str) -> SampleParts:
        fields = {name: "" for each in (self.sample, self.target) for place in each.names if (name := field_of(place))}
        return self._parts(variables, AnswerItem(completion.strip(), fields))

    def _parts(self, variables: Mapping[str, str], item: AnswerItem) -> SampleParts:
        answer = item.variables
        target = self.target.render(dict(variables) | answer)
        turns = tuple(item.turns) if item.turns else None
        if self._turns_at is None or turns:
            return SampleParts(self.sample.render(self._with_answer(variables, answer)), target, turns)
        asked = self._turns(variables)
        if self._job.prompt.sample is not None:
            return SampleParts(self.sample.render(self._with_answer(variables, answer)), target)
        return SampleParts(_last_text(asked), target, (*asked, {"role": "assistant", "content": target}))

    def _with_answer(self, variables: Mapping[str, str], answer: Mapping[str, str]) -> dict[str, str]:
        return {**answer, **variables} if self.answer_is_variable else {**variables, **answer}

    def _turns(self, variables: Mapping[str, str]) -> list[dict[str, Any]]:
        """The chat turns that are sent for a row."""
        try:
            turns = decode_json(variables.get(str(self._job.prompt.messages), ""))
        except NotJsonError:  # a row of an earlier version of the job
            return []
        return turns if isinstance(turns, list) else []

    def opening(self, request: Request) -> str:
        """Return the first words of the answer that the request contains; "" if there are none.

        Args:
            request: of this grid.
        """
        if not self._openings:
            return ""
        return self._openings[self._turn(request.values, request.repeat)].render(self.variables(request))

    def key_of(self, variables: Mapping[str, str], repeat: int) -> bytes | None:
        """Compute the key of a combination.

        Args:
            variables: name to value; variables that the job does not have are ignored, since no request contains them.
            repeat: 0 for the first repeat.

        Returns:
            The key of 16 bytes; None if the combination is not in the grid.
        """
        if repeat >= self._repeats or not all(name in variables for name in self.names):
            return None
        values = tuple([variables[name] for name in self.names])
        if values not in self._combinations:
            return None
        return request_key(self._body_of(values, repeat), repeat)

    def request_of(self, variables: Mapping[str, str], repeat: int) -> Request | None:
        """Make the request of a combination, without looking up its place.

        Args:
            variables: name to value.
            repeat: 0 for the first repeat.

        Returns:
            The request, with index 0; None if the combination is not in the grid.
        """
        key = self.key_of(variables, repeat)
        if key is None:
            return None
        values = tuple(variables[name] for name in self.names)
        return Request(0, repeat, values, key, self._body_of(values, repeat))

    def index_keys(self, keys: Collection[bytes]) -> None:
        """Search the grid for rows by their keys, so that `match` finds them whatever their variables are.

        A job of more than `MOST_ENUMERATED` requests is not searched; its rows are known by their variables alone.

        Args:
            keys: of 16 bytes.
        """
        if keys and self.count <= MOST_ENUMERATED:
            for request in self.wanted(keys.__contains__):
                self._index_of_key.setdefault(request.key, request.index)

    def match(self, row: KeyedRow) -> KeyedRow | None:
        """Give a row the job's present variables.

        Args:
            row: a record or failure; `index_keys` has searched for its key, or its variables are the job's.

        Returns:
            The row; None if it is no longer in the job.
        """
        key = self.key_of(row.variables, row.repeat)
        if key is not None and key.hex() == row.key:
            return row
        index = self._index_of_key.get(bytes.fromhex(row.key)) if self._index_of_key else None
        if index is None:
            return None
        fields = {"variables": self.variables_at(index), "index": index}
        named: Any = row
        return cast("KeyedRow", msgspec.structs.replace(named, **{k: v for k, v in fields.items() if hasattr(row, k)}))

    def variables_at(self, index: int) -> dict[str, str]:
        """Return the variables of the request at a place in the grid.

        Args:
            index: the place, repeats included.
        """
        return dict(zip(self.names, self._combinations[index // self._repeats], strict=True))

    def twins(self) -> dict[bytes, list[int]]:
        """Duplicate requests: key to the indexes of all rows after the first one.

        Rows have equal requests if no prompt uses one of the axes, or a table contains a row twice. Not computed for a
        job of more than `MOST_ENUMERATED` rows.
        """
        twins: dict[bytes, list[int]] = {}
        if not self._may_have_twins or self.count > MOST_ENUMERATED:
            return twins
        seen = KeySet(self.count)
        for request in self.requests():
            if not seen.add(request.key):
                twins.setdefault(request.key, []).append(request.index)
        return twins

    @property
    def _may_have_twins(self) -> bool:
        """Whether two rows can have the same request.

        Concatenated values can coincide, but hardly among very many rows.
        """
        named = {
            part.name
            for _, template in prompt_messages(self._job, None)
            for part in template.parts
            if isinstance(part, Placeholder)
        }
        return self.count <= _FEW_ROWS or not named.issuperset(self.names) or self._combinations.has_table

    def _body_of(self, values: Row, repeat: int) -> bytes:
        return self._bodies[self._turn(values, repeat)](tuple(map(self._escape, values)))

    def _turn(self, values: Row, repeat: int) -> int:
        """Number of the opening. The repeats of a combination use them in turn; its values decide which one is first.

        The place in the grid must not decide it: it changes when an axis grows, and every answer would be paid for
        again.
        """
        if len(self._bodies) == 1:
            return 0
        return (zlib.crc32("\0".join(values).encode()) + repeat) % len(self._bodies)


@dataclass(frozen=True, slots=True)
class GridForm:
    """A grid without its rows: it makes the request of any row that is sent to it. Can be pickled.

    Attributes:
        job: without grid, rows and subset.
        names: the variables, in order.
        model: named in every request.
        answers: parses the answers.
        sample_names: the variables of the samples' prompt if the job does not write one.
        answer_is_variable: `{answer}` in `prompt.sample` is a variable of the job.
    """

    job: Job
    names: tuple[str, ...]
    model: str
    answers: AnswerReader
    sample_names: tuple[str, ...]
    answer_is_variable: bool

    def grid(self) -> RequestGrid:
        """The grid, without rows."""
        return RequestGrid(
            self.job,
            Combinations(dict.fromkeys(self.names, ())),
            self.model,
            answers=self.answers,
            sample_names=self.sample_names,
            answer_is_variable=self.answer_is_variable,
        )


def _last_text(turns: Sequence[Mapping[str, Any]]) -> str:
    """The text of the last turn."""
    content = turns[-1].get("content") if turns else ""
    return content if isinstance(content, str) else canonical_json(content)
