"""The canonical body of a request and its key, from the parts of a job that they depend on.

The body is model, messages, then the parameters in alphabetical order. The key is a 128-bit hash of the body and the
repeat's number, without anything of the transport. Which combinations there are is left to `combinations`, the requests
of a whole job to `requests`.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from operator import itemgetter
from typing import TYPE_CHECKING

import orjson

from asyncgen.job.cells import stable_json
from asyncgen.job.template import Placeholder, Template, parse

if TYPE_CHECKING:
    from asyncgen.job.combinations import Combinations
    from asyncgen.job.model import Example, Job


KEY_BYTES = 16
_CACHED_VALUES = 100_000  # cached JSON forms of values; free text of a table would fill the memory


class EscapedValues(dict[str, bytes]):
    """Cache of the form of values in a JSON string."""

    def __missing__(self, value: str) -> bytes:
        escaped = orjson.dumps(value)[1:-1]
        if len(self) < _CACHED_VALUES:
            self[value] = escaped
        return escaped


def body_renderer(
    names: tuple[str, ...], body: list[str | Placeholder], turns_at: int | None
) -> Callable[[tuple[bytes, ...]], bytes]:
    """Return a function from a combination's escaped values to its request body.

    Args:
        names: of the values.
        body: its pieces, as of `body_parts`.
        turns_at: index of the value that is the list of messages itself, as JSON; None if there is none.
    """
    if turns_at is not None:
        before, after = (str(part).encode() for part in body)
        # The value is escaped for a JSON string; parsing it as one restores the list.
        return lambda escaped: b"".join((before, orjson.loads(b'"%b"' % escaped[turns_at]).encode(), after))
    places = [names.index(part.name) for part in body if isinstance(part, Placeholder)]
    form = b"".join(b"%b" if isinstance(part, Placeholder) else part.encode().replace(b"%", b"%%") for part in body)
    if len(places) > 1:
        chosen = itemgetter(*places)
        return lambda escaped: form % chosen(escaped)
    return lambda escaped: form % tuple([escaped[place] for place in places])


def request_key(body: bytes, repeat: int) -> bytes:
    """The key of a request: 16 bytes."""
    return blake2b(body + repeat_suffix(repeat), digest_size=KEY_BYTES).digest()


def repeat_suffix(repeat: int) -> bytes:
    """What is hashed after the body."""
    # A body ends in "}", so the repeat's number after it is unambiguous.
    return b"%d" % repeat


def body_parts(job: Job, model: str, opening: int | None) -> list[str | Placeholder]:
    """The canonical body in pieces.

    Messages from a column are left out; they go between the two parts that are then returned.
    """
    parameters = "".join(
        f",{canonical_json(name)}:{canonical_json(value)}" for name, value in sorted(job.generate.parameters.items())
    )
    if job.prompt.messages:
        return [f'{{"model":{canonical_json(model)},"messages":', f"{parameters}}}"]
    parts: list[str | Placeholder] = [f'{{"model":{canonical_json(model)},"messages":[']
    for number, (role, template) in enumerate(prompt_messages(job, opening)):
        parts.append(f'{"," if number else ""}{{"role":"{role}","content":"')
        parts += [part if isinstance(part, Placeholder) else canonical_json(part)[1:-1] for part in template.parts]
        parts.append('"}')
    return [*parts, f"]{parameters}}}"]


def prompt_messages(job: Job, opening: int | None) -> list[tuple[str, Template]]:
    """Roles and templates: the system's, worked examples as earlier turns, the user's, and the answer's opening."""
    prompt = job.prompt
    user = parse(prompt.user)
    messages = [("system", parse(prompt.system))] if prompt.system else []
    for example in prompt.examples:
        if example.opening is None or example.opening == opening:
            messages += [("user", _literal(user, example)), ("assistant", Template((example.completion,)))]
    messages.append(("user", user))
    if opening is not None:
        messages.append(("assistant", parse(prompt.openings[opening])))
    return messages


def _literal(template: Template, example: Example) -> Template:
    return Template((template.render(example.variables),))


def canonical_json(value: object) -> str:
    """JSON with sorted keys, the same in every release."""
    return stable_json(value, sort_keys=True)


def fingerprint(job: Job, model: str, combinations: Combinations) -> dict[str, str]:
    """Hash every part of a job that a key or the set of rows depends on.

    Values in files count by their content: a file can change while the job that names it does not.

    Args:
        job: with its overlay applied.
        model: the model that is asked.
        combinations: of the job.

    Returns:
        Name of the part to a short hash.
    """
    prompt = job.prompt
    parts: dict[str, object] = {
        "model": model,
        "prompt.system": prompt.system,
        "prompt.user": prompt.user,
        "prompt.sample": prompt.sample,
        "prompt.openings": prompt.openings,
        "prompt.examples": [[each.variables, each.completion, each.opening] for each in prompt.examples],
        "generate.repeats": job.generate.repeats,
        "prompt.messages": prompt.messages,
        "subset": [job.subset.size, job.subset.seed] if job.subset and job.subset.size is not None else None,
        "subset.exclude": job.subset and job.subset.exclude,
        **combinations.contents(),
    }
    for name, value in job.generate.parameters.items():
        parts[f"generate.parameters.{name}"] = value
    return {
        part: blake2b(canonical_json(value).encode(), digest_size=8).hexdigest()
        for part, value in parts.items()
        if value not in (None, [])
    }
