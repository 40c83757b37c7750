"""A model's reasoning that stands in the text of its answer: found, and divided from what it says.

A server without a reasoning parser passes the reasoning on in the content, in the form of the model's chat template.
What becomes of it is for `dataset.samples`; reasoning in a field of its own is read by `generate.http.reply`.
"""

from __future__ import annotations

import re

# The first group that matched is the reasoning. Without its end the answer was cut off. The tags are those of the chat
# templates of DeepSeek-R1, Qwen3, Magistral, Kimi, Seed-OSS and gpt-oss, and what models write when they are asked to
# think aloud.
_BEGUN = re.compile(
    r"""\s*(?:
        [<◁](?P<tag>think|thinking|thoughts?|reasoning|seed:think)[>▷](?P<tagged>.*?)(?:[<◁]/(?P=tag)[>▷]\s*|\Z)
        |\[think\](?P<bracketed>.*?)(?:\[/think\]\s*|\Z)
        |<\|channel\|>analysis<\|message\|>(?P<channel>.*?)
         (?:(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>\s*|\Z)
    )""",
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)
_ENDS = ("</think>", "[/THINK]", "◁/think▷")  # alone where the template ends the prompt with the opening tag
_BEGINNINGS = ("<", "[", "◁")


def split_thoughts(text: str) -> tuple[str | None, str]:
    """Divide an answer into reasoning and the rest.

    Args:
        text: the whole answer.

    Returns:
        The reasoning, None if the answer does not begin with any, and what follows it; "" if the answer ends before.

    Example:
        >>> split_thoughts("<think>Short, then.</think> Buy now.")
        ('Short, then.', 'Buy now.')
    """
    begun = text.lstrip()
    if begun.startswith(_BEGINNINGS) and (found := _BEGUN.match(begun)):
        parts = (found["tagged"], found["bracketed"], found["channel"])
        return next(part for part in parts if part is not None), begun[found.end() :]
    for end in _ENDS:
        if end in text:
            thoughts, _, rest = text.partition(end)
            return thoughts, rest.lstrip()
    return None, text


def begins_with_thoughts(text: str) -> bool:
    """Whether an answer begins with reasoning, its end there or not.

    Args:
        text: the whole answer.
    """
    return split_thoughts(text)[0] is not None
