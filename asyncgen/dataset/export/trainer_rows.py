"""Convert prepared samples to the rows of each trainer, so that only the answers are learnt.

Facts, read in the packages' sources in November 2026: TRL 1.16 learns the completion alone of rows with `prompt` and
`completion`, and all of rows with `messages`; axolotl 0.19 (`prompt_strategies/chat_template.py`,
`dpo/chat_template.py`); LLaMA-Factory 0.9.5 (`data/converter.py`: `content` is required and contains the reasoning);
mlx-lm 0.32 (`tuner/datasets.py`: `mask_prompt` masks all before the last message); tinker-cookbook 0.6
(`supervised/data.py`: `messages`, no tools; reasoning is a part of the content).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from asyncgen.dataset.export.train_with_trl import as_templates_take_it
from asyncgen.dataset.samples import COMPLETION
from asyncgen.errors import UsageError
from asyncgen.text_files import BYTE_ORDER_MARK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from asyncgen.run.state import DatasetState

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PreparedSample:
    """One line of `train.jsonl` or `validation.jsonl`.

    Attributes:
        turns: the conversation, its last turn the answer; the better one of a pair.
        worse: the worse answer of a pair.
        tools: that were offered.
        pair: prompt and completion with separator and ending, where the dataset has the completion format; `turns`
            are the same without them.
    """

    turns: tuple[Message, ...]
    worse: Message | None = None
    tools: list[Any] | None = None
    pair: tuple[str, str] | None = None

    @property
    def texts(self) -> list[str]:
        """What costs tokens, a text for each message; of two answers the longer one."""
        if self.pair is not None:
            return list(self.pair)
        *asked, answer = map(_text, self.turns)
        last = max(answer, _text(self.worse), key=len) if self.worse else answer
        return [*asked, last, *([json.dumps(self.tools)] if self.tools else ())]


def _text(message: Message) -> str:
    return "".join(
        value if isinstance(value, str) else json.dumps(value) for name, value in message.items() if name != "role"
    )


def prepared_samples(path: Path, dataset: DatasetState) -> Iterator[PreparedSample]:
    """The samples of a file of `prepare`.

    Args:
        path: `train.jsonl` or `validation.jsonl`.
        dataset: what the run notes of it.

    Raises:
        UsageError: a line is no sample.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield _sample(orjson.loads(line.removeprefix(BYTE_ORDER_MARK)), dataset)
            except (orjson.JSONDecodeError, KeyError, TypeError, IndexError) as error:
                raise UsageError(
                    f"{path}, line {number}, is no training sample",
                    help_text=f"asyncgen prepare {path.parent}   (writes the file anew)",
                ) from error


def _sample(row: dict[str, Any], dataset: DatasetState) -> PreparedSample:
    if "preferred_output" in row:
        asked = row["input"]
        turns = map(as_templates_take_it, [*asked["messages"], row["preferred_output"][0]])
        worse = as_templates_take_it(row["non_preferred_output"][0])
        return PreparedSample(tuple(turns), worse, asked.get("tools"))
    if dataset.format == COMPLETION:
        prompt, completion = row["prompt"], row["completion"]
        user = prompt.removesuffix(dataset.separator) if dataset.separator else prompt
        said = (completion.removesuffix(dataset.ending) if dataset.ending else completion).strip()
        turns_ = ({"role": "user", "content": user}, {"role": "assistant", "content": said})
        return PreparedSample(turns_, pair=(prompt, completion))
    return PreparedSample(tuple(map(as_templates_take_it, row["messages"])), tools=row.get("tools"))


def trl_rows(sample: PreparedSample) -> Iterator[dict[str, Any]]:
    """TRL: an answer each, with all before it as its prompt; pairs as `chosen` and `rejected`."""
    if sample.pair is not None:
        yield {"prompt": sample.pair[0], "completion": sample.pair[1]}
        return
    turns = list(sample.turns)
    tools = {"tools": json.dumps(sample.tools)} if sample.tools else {}
    if sample.worse is not None:
        yield {"prompt": turns[:-1], "chosen": turns[-1:], "rejected": [sample.worse], **tools}
        return
    for place in _answers(turns):
        yield {"prompt": turns[:place], "completion": [turns[place]], **tools}


def axolotl_rows(sample: PreparedSample) -> Iterator[dict[str, Any]]:
    """axolotl: `messages`, whose assistant's turns are learnt; texts stay texts."""
    if sample.pair is not None:
        yield {"prompt": sample.pair[0], "completion": sample.pair[1]}
    else:
        yield _chat(sample)


def chat_rows(sample: PreparedSample) -> Iterator[dict[str, Any]]:
    """Unsloth: `messages`."""
    yield _chat(sample)


def mlx_rows(sample: PreparedSample) -> Iterator[dict[str, Any]]:
    """mlx-lm: a conversation for each answer, which stands last."""
    turns = list(sample.turns)
    for place in _answers(turns):
        yield {"messages": turns[: place + 1], **({"tools": sample.tools} if sample.tools else {})}


def llama_factory_rows(sample: PreparedSample) -> Iterator[dict[str, Any]]:
    """LLaMA-Factory: `messages`, thoughts inside of the content, tools as a text."""
    row = {name: value for name, value in _chat(sample).items() if name != "tools"}
    shown = {name: _inside(value) if isinstance(value, dict) else [*map(_inside, value)] for name, value in row.items()}
    yield shown | ({"tools": json.dumps(sample.tools)} if sample.tools else {})


def tinker_rows(sample: PreparedSample) -> Iterator[dict[str, Any]]:
    """Tinker: `messages`, of which every content is a list of parts, as thoughts are parts of their own."""
    yield {"messages": [{"role": turn["role"], "content": _parts(turn)} for turn in sample.turns]}


def _chat(sample: PreparedSample) -> dict[str, Any]:
    turns = list(sample.turns)
    tools = {"tools": sample.tools} if sample.tools else {}
    if sample.worse is None:
        return {"messages": turns, **tools}
    return {"messages": turns[:-1], "chosen": turns[-1], "rejected": sample.worse, **tools}


def _answers(turns: Sequence[Message]) -> Iterator[int]:
    return (place for place, turn in enumerate(turns) if place and turn["role"] == "assistant")


def _inside(message: Message) -> Message:
    thoughts = message.get("reasoning_content")
    rest = {name: value for name, value in message.items() if name != "reasoning_content"}
    return rest | {"content": f"<think>\n{thoughts}\n</think>\n\n{message['content']}"} if thoughts else rest


def _parts(message: Message) -> list[dict[str, str]]:
    thoughts = message.get("reasoning_content")
    text = {"type": "text", "text": message["content"]}
    return [{"type": "thinking", "thinking": thoughts}, text] if thoughts else [text]
