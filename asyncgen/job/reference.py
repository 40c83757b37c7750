"""The reference of the job file: every key with type, default, purpose and example.

Types and defaults are read from `model`. A test loads every example and checks that every key is described.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import msgspec

from asyncgen.job.model import Job
from asyncgen.job.schema import type_in_words

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = """\
# The job file

A job file is TOML. It says what is asked for, whom, and what becomes of the answers. `asyncgen init` writes one to
start from, `asyncgen init --list` names examples of kinds of work, and `asyncgen plan` shows what a job would send,
without sending anything. This page is also `asyncgen help job`.

Templates are plain text with places: `{name}` is replaced by the value of an axis or a column, and doubled braces are
literal ones, as in `{{"text": "{name}"}}`. In `sample` and `target`, `{answer}` is the model's answer and
`{answer.FIELD}` a field of an answer that is JSON. There are no expressions.

Relative paths start at the job file's folder. A key of a row is made of the request itself (model, messages,
parameters) and the number of the repeat, so a changed job pays only for the requests that it changes.
"""

_TABLES = {
    "": "Above the first table.",
    "grid": """\
The axes: every combination of their values is asked for, the last axis varying fastest. The name of an axis is an
identifier; its values are a list of texts or numbers, the lines of a file, or a column of a table (.csv, .jsonl,
.parquet). Blank values of a file are passed over, and each value is taken once.

```toml
[grid]
size = ["small", "large"]
city = { file = "cities.txt" }
sector = { file = "stores.csv", column = "sector" }
```""",
    "rows": """\
Ready combinations instead of axes, or multiplied with them, from one source: `file`, `run` or `files`. Columns that no
template names do not matter; lists and tables in a cell are JSON text.""",
    "subset": "A part of the combinations.",
    "prompt": "What is asked, and what the tuned model will learn to answer.",
    "prompt.examples": """\
Worked examples, sent as earlier turns. Beside these two keys each has a value for every variable that `user` names.""",
    "generate": "Who answers, and how often.",
    "answer": "How an answer is read. An answer that is not of this form fails a check, like any other.",
    "checks": """\
What an answer must satisfy to become a training sample. They judge the answer as it came. Answers that fail are kept in
the run, and stay out of the dataset.""",
    "limits": "All optional: what is absent is learnt from the server's answers.",
    "dataset": "How answers become samples.",
    "dataset.scores": "Answers that a judge's run found good enough.",
    "finetune": "Who tunes which model, and how.",
    "on": """\
Tables under `[on.NAME]` are laid over the others when `NAME` is the provider of that stage: of generation for what is
asked, of tuning for `[dataset]`, `[finetune]` and the prompt's `sample` and `target`. `false` takes a key or a
parameter away.

```toml
[generate]
max_tokens = 200
[on.local.generate]
max_tokens = 60
[on.mistral.generate.parameters]
seed = false
random_seed = 7
```""",
}

# Key to its purpose and an example of its value ("" if the table's example shows it).
_KEYS: dict[str, tuple[str, str]] = {
    "name": ("The name of the run's folder, `runs/NAME`.", '"direct-marketing"'),
    "rows.file": ("A table: .csv, .jsonl or .parquet; also any file that asyncgen wrote.", '"stores.csv"'),
    "rows.run": (
        (
            "Another run: a row for each of its settled answers that passed its checks, with its variables, `prompt`, "
            "`answer` and the fields of the answer. It may still grow: the next `generate` asks for what came since. "
            "`source` is the key of the answer that a row was made of."
        ),
        '"runs/questions"',
    ),
    "rows.files": (
        "Text files by a pattern: a row for each part, with `file`, `part` and `text`. Convert PDF to text first.",
        '"docs/**/*.md"',
    ),
    "rows.split_words": (
        "Parts have at most so many words, but paragraphs stay whole. Left out: each file is one part.",
        "400",
    ),
    "rows.overlap_words": ("Each part begins with so many words of the one before.", "50"),
    "subset.size": ("So many combinations, chosen without replacement. Left out: all.", "10000"),
    "subset.seed": ("Decides which are chosen. A larger size keeps those of a smaller one.", "7"),
    "subset.exclude": (
        "Combinations to leave out: those that agree with all values of one of the entries.",
        '[{ sector = "Pharmacies", size = "large" }]',
    ),
    "prompt.user": ("The request. Needed, unless `messages` is given.", '"Write a message to {sector} in {city}."'),
    "prompt.system": ("The system message.", '"You write direct marketing."'),
    "prompt.messages": (
        (
            "Instead of system and user: a column of [rows] that holds chat turns, as `{role, content}` or as ShareGPT "
            "has them. They are sent up to the last one that is to be answered."
        ),
        '"turns"',
    ),
    "prompt.sample": (
        "The prompt of the training samples: what the tuned model will be given. Left out: the values, with commas.",
        '"{sector}, {city}"',
    ),
    "prompt.target": ("What it is to say. Left out: the answer.", '"{answer}"'),
    "prompt.openings": (
        (
            "First words of the answer, sent as the last assistant message. The repeats of a combination take them in "
            "turn. Only for providers that continue an answer."
        ),
        '["In {city},"]',
    ),
    "prompt.examples.completion": ("The answer that the example shows.", '"Florists in Vienna can now ..."'),
    "prompt.examples.opening": ("The number of the only opening with which it is sent, from 0. Left out: any.", "0"),
    "generate.provider": (
        'A name that `asyncgen providers` lists. "auto": the first one whose key is in the environment, else "local".',
        '"openai"',
    ),
    "generate.model": ("Left out: the provider's default.", '"gpt-6-luna"'),
    "generate.repeats": ("How often each combination is asked for.", "3"),
    "generate.max_tokens": ("The bound on an answer, sent under the name that the provider knows.", "200"),
    "generate.parameters": ("Passed to the API as they are; part of a row's key.", "{ temperature = 1 }"),
    "answer.format": (
        '"json": an answer must be JSON, a code fence around it or not; else the check `json` fails.',
        '"json"',
    ),
    "answer.schema": (
        (
            "A file with a JSON Schema; an answer that breaks it fails the check `schema`. Left out: the schema in the "
            "parameter response_format, where there is one."
        ),
        '"reply.schema.json"',
    ),
    "answer.each": ("A field that holds a list: each of its items is a sample of its own.", '"pairs"'),
    "answer.messages": (
        "A field that holds turns, `{role, content}`: the conversation to learn from.",
        '"turns"',
    ),
    "checks.max_sentences": ("At most so many sentences.", "2"),
    "checks.max_words": ("At most so many words.", "60"),
    "checks.max_characters": ("At most so many characters.", "400"),
    "checks.min_words": ("At least so many words.", "5"),
    "checks.must_contain": ("Texts that must be in the answer, letter by letter; with places.", '["{city}"]'),
    "checks.must_match": ("Regular expressions that must be found in the answer.", "['[.!?]$']"),
    "checks.must_not_match": ("Regular expressions that must not be found.", "['(?i)discount']"),
    "checks.attempts": ("An answer that fails is asked for again, and paid for again, up to so often.", "2"),
    "limits.concurrency": ("At most so many requests at once.", "64"),
    "limits.requests_per_minute": ("", "500"),
    "limits.tokens_per_minute": ("", "200000"),
    "limits.max_cost": ("USD, over all invocations of the run.", "5.0"),
    "limits.timeout_s": ("Seconds of one attempt. Left out: learnt from how long answers take.", "600"),
    "dataset.format": (
        (
            '"chat" for lines of messages, "completion" for prompt and completion, "preference" for pairs of a '
            "better and a worse answer."
        ),
        '"chat"',
    ),
    "dataset.system": ("The first message of every chat sample.", '"You write short adverts."'),
    "dataset.separator": ("Ends every prompt of the completion format.", '" -->"'),
    "dataset.ending": ("Ends every completion of the completion format.", '"\\n"'),
    "dataset.validation": ("A share of the combinations that is not trained on.", "0.1"),
    "dataset.hold_out": ("Values of axes that are not trained on at all, whole.", '{ city = ["Berlin"] }'),
    "dataset.reasoning": (
        (
            'What becomes of an answer\'s reasoning: "drop"; "think" puts it in <think> tags before the answer; the '
            "others are the field that it goes into, by the template of the model to be tuned."
        ),
        '"think"',
    ),
    "dataset.chosen": ("Of a pair, the values of the better answer's row.", '{ quality = "excellent" }'),
    "dataset.rejected": ("Of a pair, the values of the worse answer's row.", '{ quality = "mediocre" }'),
    "dataset.scores": ("Answers that a judge's run found good enough.", ""),
    "dataset.scores.run": ("The judge: a run whose rows are this run's answers.", '"runs/judge"'),
    "dataset.scores.field": ("The field of the judge's answers that holds the score.", '"score"'),
    "dataset.scores.at_least": ("Answers below it stay out.", "4"),
    "dataset.scores.best": ("So many of each combination, the highest scores first.", "1"),
    "dataset.seed": ("Decides which combinations validate.", "7"),
    "finetune.provider": ('"auto": who answers, where they tune for new customers; else "local".', '"together"'),
    "finetune.model": ("Left out: the provider's default.", '"gpt-4.1-mini-2025-04-14"'),
    "finetune.suffix": ("Becomes part of the tuned model's name.", '"direct_marketing"'),
    "finetune.seed": ("Passed to the provider.", "7"),
    "finetune.method": ("", '"dpo"'),
    "finetune.hyperparameters": ("Passed to the provider, as its API names them.", "{ n_epochs = 4 }"),
    "finetune.metadata": ("Kept with the job by the provider.", '{ team = "data" }'),
    "finetune.integrations": ("Passed to the provider.", '[{ type = "wandb", wandb = { project = "adverts" } }]'),
}


def reference() -> str:
    """The whole reference, as Markdown."""
    lines = [_HEAD]
    for table, about in _TABLES.items():
        keys = list(_keys_of(table))
        if table and not keys and table not in {"grid", "on"}:
            continue
        title = (
            f"[{table}]" if table not in {"prompt.examples", "on"} else {"on": "[on.NAME]"}.get(table, f"[[{table}]]")
        )
        lines += [f"## {title if table else 'name'}", "", about, ""]
        for key, kind, default in keys:
            words, example = _KEYS.get(key, ("", ""))
            lines.append(_entry(key, kind, default, words, example))
        if keys:
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def documented_keys() -> dict[str, str]:
    """Every key of the job file, with an example of its value."""
    keys = [key for table in _TABLES for key, _, _ in _keys_of(table)]
    return {key: _KEYS[key][1] if key in _KEYS else "" for key in keys}


def _entry(key: str, kind: str, default: str, words: str, example: str) -> str:
    shown = f" `{key.rpartition('.')[2]} = {example}`" if example else ""
    sentence = f" {words}" if words else ""
    return f"- `{key}` ({kind}; {default}).{sentence}{shown}"


def _keys_of(table: str) -> Iterator[tuple[str, str, str]]:
    """The keys of a table: dotted name, type and default, for the reader."""
    struct = _struct_of(table)
    if struct is None:
        return
    hints = get_type_hints(struct)
    for field in msgspec.structs.fields(struct):
        key = f"{table}.{field.name}" if table else field.name
        if key in _TABLES or key == "prompt.examples.variables":
            continue
        yield key, type_in_words(hints[field.name]), _default(field, hints[field.name])


def _struct_of(table: str) -> type[msgspec.Struct] | None:
    structs: Any = Job
    for part in filter(None, table.split(".")):
        hint = get_type_hints(structs).get(part)
        structs = next((each for each in (hint, *get_args(hint)) if _is_struct(each)), None)
        if structs is None:
            return None
    return None if table == "grid" else structs


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _default(field: msgspec.structs.FieldInfo, hint: Any) -> str:
    if field.required:
        return "needed"
    value = field.default if field.default is not msgspec.NODEFAULT else None
    if value in (None, "") or (value is None and type(None) in get_args(hint)):
        return "optional"
    return f"default `{msgspec.json.encode(value).decode()}`"
