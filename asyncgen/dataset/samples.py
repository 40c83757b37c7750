"""Select the records that become samples, and convert each to training lines.

A record that does not become a sample has a reason; reasons are checked in a fixed order. For the others, decides the
direction (what is the question, what is learnt) and the format, to the byte. The split is left to `split`, what a
provider accepts to `rules`.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from itertools import groupby
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from asyncgen.dataset.near_duplicates import AnswersByPrompt
from asyncgen.job.answers import checks_of
from asyncgen.job.row_matching import needs_matching
from asyncgen.job.template import parse
from asyncgen.job.thoughts import split_thoughts
from asyncgen.json_text import decoder
from asyncgen.run.key_set import KeySet
from asyncgen.run.records import decode_record, finish_reason_of
from asyncgen.run.reviews import NO_REVIEWS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from asyncgen.job.model import DatasetSettings, Job
    from asyncgen.job.requests import RequestGrid, SampleParts
    from asyncgen.run.records import Failure, Record
    from asyncgen.run.reviews import Reviews
    from asyncgen.run.state import JobState


STALE = "stale"
EMPTY = "empty"
REFUSED = "refused"
TRUNCATED = "truncated"
FILTERED = "filtered"
DUPLICATE = "duplicate"
NEAR_DUPLICATE = "near_duplicate"
SCORE = "score"
BY_HAND = "rejected_by_hand"
CHECK = "check: "
FINISH_REASON = "finish_reason: "

_FINISHED = frozenset({"", "stop", "tool_calls"})  # "" where the server says nothing
_WHOLE = frozenset({"", "stop"})  # as nearly all answers end
_UNFINISHED = {"length": TRUNCATED, "content_filter": FILTERED, "refusal": REFUSED}

# Models also refuse in text. Only unambiguous beginnings count as a refusal.
_REFUSAL = re.compile(
    r"(?:i['’]m|i am) (?:very |really |so )?sorry,? (?:but )?(?:i|as an)\b"
    r"|(?:sorry|apologies),? (?:but )?i (?:can['’]?t|cannot|can not|am unable|['’]m unable|won['’]t)\b"
    r"|i (?:can['’]?t|cannot|can not|am unable to|won['’]t) (?:help|assist|comply|provide|create|generate|write)\b"
    r"|i['’]m (?:unable|not able) to (?:help|assist|comply|provide|create|generate|write)\b"
    r"|as an (?:ai|artificial intelligence)\b",
    re.IGNORECASE,
)


def unusable(record: Record) -> str | None:
    """Check whether an answer by itself can be a sample.

    Args:
        record: the answer.

    Returns:
        The reason why it cannot; None if it can.
    """
    if record.finish_reason not in _WHOLE:
        finish = finish_reason_of(record.finish_reason)  # older records hold it as the server gave it
        calls_are_lost = finish == "tool_calls" and not record.tool_calls  # by a release that did not keep them
        if finish not in _FINISHED or calls_are_lost:
            return _UNFINISHED.get(finish, FINISH_REASON + record.finish_reason)
    answer = record.completion.strip()
    if not answer:
        return None if record.tool_calls else EMPTY
    return REFUSED if _REFUSAL.match(answer) else None


def may_be_stale(job: JobState, grid: RequestGrid) -> bool:
    """Return whether a run may contain rows that the job no longer asks for; if not, none needs to be looked up.

    Args:
        job: as noted in the run.
        grid: requests of the job as it is now.
    """
    return needs_matching(job, grid)


def is_stale(record: Record | Failure, grid: RequestGrid) -> bool:
    """Return whether the job, as it is now, no longer asks for a row.

    Args:
        record: the row's record or failure.
        grid: requests of the job as it is now.
    """
    return grid.match(record) is None


class Selection:
    """Judges records one by one, in the order of the file.

    Takes 16 bytes of memory per sample.

    Args:
        job: as it is now; its checks apply, because a record's `check_failures` may be of an earlier form.
        grid: the job's requests and short prompt.
        stale: some records may be stale; see `may_be_stale`.
        expected: expected number of samples; there may be more.
        reviews: answers that a person rejected, whatever the checks say.
        identities: gets every sample, to find the ones that come again in another part of the run.
    """

    def __init__(
        self,
        job: Job,
        grid: RequestGrid,
        *,
        stale: bool,
        expected: int = 0,
        reviews: Reviews = NO_REVIEWS,
        identities: Identities | None = None,
    ) -> None:
        self._grid = grid
        self.checks = checks_of(job, grid.answers)
        self._maker = SampleMaker(job, grid)
        self._may_be_stale = stale
        self._reviews = reviews
        self._identities = identities
        self._seen = KeySet(expected)  # 64 bits of a pair: at 10^6 rows a false duplicate has odds of 1 to 10^7

    def own(self, record: Record) -> Record | None:
        """The record with the job's present variables; None if the job no longer asks for it."""
        return self._grid.match(record) if self._may_be_stale else record

    def judge(self, record: Record) -> tuple[list[Sample], str | None]:
        """The samples of a record, and the reason why there are none; None if there are some."""
        ((_, samples, reason),) = self._without_duplicates([(record, *self._made(record))])
        return samples, reason

    def judge_all(self, records: Sequence[Record]) -> list[Judged]:
        """Judge the next records of the file, with `own` first; quicker than one by one."""
        if self._may_be_stale:
            own = map(self.own, records)
            made = [
                (record, [], STALE) if mine is None else (mine, *self._made(mine))
                for record, mine in zip(records, own, strict=True)
            ]
        else:
            made = [(record, *self._made(record)) for record in records]
        return self._without_duplicates(made)

    def _made(self, record: Record) -> tuple[list[Sample], str | None]:
        if reason := unusable(record):
            return [], reason
        if self._reviews.rejected and self._reviews.is_rejected(record.key, record.completion):
            return [], BY_HAND
        if failures := self.checks.failures(record.completion, record.variables):
            return [], CHECK + failures[0]
        samples = self._maker.of(record)
        return samples, None if samples else EMPTY

    def _without_duplicates(self, judged: list[Judged]) -> list[Judged]:
        hashes = [hash((each.prompt, each.answer)) & _64_BITS for _, samples, _ in judged for each in samples]
        is_new = self._seen.add_each(hashes)
        if not all(is_new):
            new = iter(is_new)
            kept = [(record, [each for each in samples if next(new)], reason) for record, samples, reason in judged]
            judged = [(record, samples, reason if samples else reason or DUPLICATE) for record, samples, reason in kept]
        if self._identities is not None:
            self._identities.add_all([samples for _, samples, _ in judged])
        return judged


class Identities:
    """Finds equal samples in different parts of a run. Takes 20 bytes a sample."""

    def __init__(self) -> None:
        self._records = 0
        self._samples = AnswersByPrompt()
        self._numbers = array("Q")

    def add_all(self, of_records: Iterable[Sequence[Sample]]) -> None:
        """Note the samples of the next records."""
        first = len(self._numbers)
        pairs: list[tuple[str, str]] = []
        for samples in of_records:
            for sample in samples:
                self._numbers.append(sample_number(self._records, sample.item))
                pairs.append((sample.prompt, sample.answer))
            self._records += 1
        self._samples.add_all(pairs, first)

    def extend(self, other: Identities) -> None:
        """Note the samples of the next part, from a process with the same `PYTHONHASHSEED`."""
        self._samples.extend(other._samples, len(self._numbers))
        by = sample_number(self._records)
        self._numbers.extend([number + by for number in other._numbers])
        self._records += other._records

    def repeated(self) -> Iterator[tuple[int, list[int], bool]]:
        """Samples equal to an earlier one: place of their record, which of its samples, and whether it has others."""
        again = array("Q", sorted(self._numbers[each] for _, *later in self._samples.shared() for each in later))
        for place, numbers in groupby(again, key=lambda number: place_and_item(number)[0]):
            items = [place_and_item(number)[1] for number in numbers]
            first, end = (bisect_left(self._numbers, sample_number(each)) for each in (place, place + 1))
            yield place, items, end - first > len(items)


_ITEM_BITS = 20  # of a sample's number


def sample_number(place: int, item: int = 0) -> int:
    """The number of a sample: the place of its record in the run, and which of the record's samples it is."""
    return place << _ITEM_BITS | item


def place_and_item(number: int) -> tuple[int, int]:
    """The two parts of a sample's number."""
    return divmod(number, 1 << _ITEM_BITS)


Judged = tuple["Record", "list[Sample]", "str | None"]  # the record as the job has it, and as `Selection.judge`
_64_BITS = 2**64 - 1


_LINE = orjson.OPT_APPEND_NEWLINE
CHAT = "chat"
COMPLETION = "completion"
PREFERENCE = "preference"


class Sample(msgspec.Struct, frozen=True, gc=False):  # made for every answer, in a third of a dataclass's time
    """What a model is to learn: the prompt as it will be asked, and the answer without blanks around it.

    Attributes:
        prompt: the prompt; of a conversation everything before the last answer, as JSON. Equal prompts go to the same
            split.
        answer: the last answer.
        system: first message; None if there is none.
        turns: the whole conversation, written in place of prompt and answer; None if it is not one.
        reasoning: the model's reasoning before the answer.
        tool_calls: calls of the answer, as in the API.
        tools: tools that the request offered.
        item: which of its record's samples it is, from 0.
    """

    prompt: str
    answer: str
    system: str | None = None
    turns: tuple[Mapping[str, Any], ...] | None = None
    reasoning: str | None = None
    tool_calls: list[Any] | None = None
    tools: list[Any] | None = None
    item: int = 0


class _Answer(msgspec.Struct, gc=False):
    completion: str


_decode_answer = decoder(_Answer)


class SampleMaker:
    """Makes the samples of a job's records.

    Args:
        job: its dataset settings and its tools count.
        grid: renders prompts and reads answers.
    """

    def __init__(self, job: Job, grid: RequestGrid) -> None:
        self._grid = grid
        self._settings = job.dataset
        self._system = parse(job.dataset.system, answer_fields=True) if job.dataset.system else None
        tools = job.generate.parameters.get("tools")
        self._tools = tools if isinstance(tools, list) and tools else None
        named = (*grid.sample.names, *grid.target.names, *(self._system.names if self._system else ()))
        reads = [name for name in named if name == "answer" or name.startswith("answer.")]
        self._is_plain = reads == ["answer"] and not (
            grid.answers.reads_json or job.prompt.target or job.prompt.messages or grid.answer_is_variable
        )
        self._is_bare = self._is_plain and not (self._system or self._tools or job.dataset.reasoning)
        # Thoughts and calls belong to what the model says itself, not to a label or an item of a list.
        self._is_own_answer = job.prompt.target in {None, "{answer}"} and not job.answer.each

    def of(self, record: Record) -> list[Sample]:
        """The samples of one record, without those that ask or teach nothing."""
        if self._is_bare and not record.tool_calls:
            sample = Sample(self._grid.sample.render(record.variables), record.completion.strip())
            return [sample] if sample.answer and not sample.prompt.isspace() and sample.prompt else []
        completion, reasoning = self._thoughts(record)
        if self._is_plain:
            prompt, answer = self._grid.sample.render(record.variables), completion.strip()
            made = [self._sample(record, prompt, answer, {}, reasoning)]
        else:
            made = list(self._read(record, completion, reasoning))
        kept = [sample for sample in made if sample.prompt.strip() and (sample.answer.strip() or sample.tool_calls)]
        return [msgspec.structs.replace(sample, item=item) if item else sample for item, sample in enumerate(kept)]

    def answer_at(self, line: bytes, item: int) -> str:
        """The answer of one sample of a record, given the record's line."""
        if self._is_plain and self._settings.reasoning is None:
            return _decode_answer(line).completion  # decoding the whole record would take twice as long
        record = decode_record(line)
        return self.of(self._grid.match(record) or record)[item].answer

    def _read(self, record: Record, completion: str, reasoning: str | None) -> Iterator[Sample]:
        items = self._grid.answers.read(completion).items
        for item, parts in zip(items, self._grid.samples(record.variables, completion), strict=True):
            if parts.turns:
                yield self._conversation(record, parts, item.variables)
            else:
                yield self._sample(record, parts.prompt.strip(), parts.target.strip(), item.variables, reasoning)

    def _sample(
        self, record: Record, prompt: str, answer: str, fields: Mapping[str, str], reasoning: str | None
    ) -> Sample:
        own = self._is_own_answer
        if self._system is None and reasoning is None and not record.tool_calls and self._tools is None:
            return Sample(prompt, answer)
        return Sample(
            prompt,
            answer,
            system=self._system_of(record, fields),
            reasoning=reasoning if own else None,
            tool_calls=record.tool_calls if own else None,
            tools=self._tools if own else None,
        )

    def _conversation(self, record: Record, parts: SampleParts, fields: Mapping[str, str]) -> Sample:
        turns = tuple(parts.turns or ())
        asked = orjson.dumps(turns[:-1]).decode()
        last = turns[-1].get("content")
        answer = last if isinstance(last, str) else orjson.dumps(last).decode()
        return Sample(asked, answer, system=self._system_of(record, fields), turns=turns)

    def _system_of(self, record: Record, fields: Mapping[str, str]) -> str | None:
        return self._system.render({**record.variables, **fields}) if self._system else None

    def _thoughts(self, record: Record) -> tuple[str, str | None]:
        """The answer and the model's reasoning; both unchanged if the job has no rule for reasoning."""
        completion, reasoning = record.completion, record.reasoning
        if self._settings.reasoning is None:
            return completion, None
        thoughts, completion = split_thoughts(completion)
        reasoning = reasoning or thoughts
        if self._settings.reasoning == "drop" or not reasoning or not reasoning.strip():
            return completion, None
        return completion, reasoning.strip()


def messages(settings: DatasetSettings, sample: Sample) -> list[dict[str, Any]]:
    """The conversation of a chat sample."""
    text = settings.system if sample.system is None else sample.system
    system = [{"role": "system", "content": text}] if text else []
    if sample.turns is not None:
        has_one = sample.turns[0].get("role") == "system"
        return [*(() if has_one else system), *map(dict, sample.turns)]
    return [*system, {"role": "user", "content": sample.prompt}, reply(settings, sample)]


def reply(settings: DatasetSettings, sample: Sample) -> dict[str, Any]:
    """The assistant's message of a chat sample: the answer with thoughts and calls."""
    message: dict[str, Any] = {"role": "assistant"}
    text = _with_thoughts(settings, sample)
    if text or not sample.tool_calls:
        message["content"] = text
    if sample.reasoning and settings.reasoning in {"reasoning_content", "thinking"}:
        message[settings.reasoning] = sample.reasoning
    if sample.tool_calls:
        message["tool_calls"] = sample.tool_calls
    return message


def _with_thoughts(settings: DatasetSettings, sample: Sample) -> str:
    if sample.reasoning and settings.reasoning == "think":
        return f"<think>\n{sample.reasoning}\n</think>\n\n{sample.answer}"
    return sample.answer


def _texts(conversation: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None) -> list[str]:
    """Every text of a conversation that costs tokens; a message's several ones are joined."""
    found = ["".join([_text(value) for name, value in each.items() if name != "role"]) for each in conversation]
    return [*found, orjson.dumps(tools).decode()] if tools else found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def pair(settings: DatasetSettings, sample: Sample) -> tuple[str, str]:
    """Prompt and completion of the completion format.

    The prompt ends in the separator; the completion begins with a space, as vocabularies have words with their space
    before them, and ends in the ending, which is then the `stop` of a request.
    """
    return sample.prompt + settings.separator, f" {_with_thoughts(settings, sample)}{settings.ending}"


def training_line(settings: DatasetSettings, sample: Sample) -> tuple[bytes, list[str]]:
    """The sample as JSON, newline included, and every text of it that costs tokens."""
    ((line,), (texts,)) = training_lines(settings, [sample])
    return line, texts


def training_lines(settings: DatasetSettings, samples: Iterable[Sample]) -> tuple[list[bytes], list[list[str]]]:
    """The line of each sample as JSON, newline included, and its texts that cost tokens."""
    lines: list[bytes] = []
    texts: list[list[str]] = []
    heads: dict[tuple[str, str | None], tuple[bytes, list[str]]] = {}  # what stands before an answer, by prompt
    for sample in samples:
        if settings.format == COMPLETION:
            prompt, completion = pair(settings, sample)
            lines.append(orjson.dumps({"prompt": prompt, "completion": completion}, option=_LINE))
            texts.append([prompt, completion])
        elif sample.turns or sample.reasoning or sample.tool_calls or sample.tools:
            conversation = messages(settings, sample)
            line = {"messages": conversation} | ({"tools": sample.tools} if sample.tools else {})
            lines.append(orjson.dumps(line, option=_LINE))
            texts.append(_texts(conversation, sample.tools))
        else:
            prompt_of = sample.prompt, sample.system
            head, asked = heads.get(prompt_of) or heads.setdefault(prompt_of, _head(settings, *prompt_of))
            lines.append(b"%b%b}]}\n" % (head, orjson.dumps(sample.answer)))
            texts.append([*asked, sample.answer])
    return lines, texts


def _head(settings: DatasetSettings, prompt: str, system: str | None) -> tuple[bytes, list[str]]:
    """The beginning of the line of a prompt's samples, up to the answer; and the texts in it."""
    conversation = messages(settings, Sample(prompt, "", system))
    line = orjson.dumps({"messages": conversation})
    return line.removesuffix(b'""}]}'), [each["content"] for each in conversation[:-1]]


def preference_line(settings: DatasetSettings, better: Sample, worse: Sample) -> tuple[bytes, list[str]]:
    """A pair of answers to one prompt, by OpenAI's names, and its texts: the conversation costs for each answer."""
    liked, disliked = messages(settings, better), messages(settings, worse)
    *asked, preferred = liked
    conversation: dict[str, Any] = {"messages": asked}
    if better.tools:
        conversation["tools"] = better.tools
    line = {"input": conversation, "preferred_output": [preferred], "non_preferred_output": [reply(settings, worse)]}
    return orjson.dumps(line, option=_LINE), [*_texts(liked, better.tools), *_texts(disliked, worse.tools)]
