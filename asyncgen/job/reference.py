"""The reference of the job file: every key with type, default, purpose and example.

Types and defaults are read from `model`. A test loads every example and checks that every key is described.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import msgspec

from asyncgen.errors import UsageError, nearest
from asyncgen.job.model import Job
from asyncgen.job.schema import type_description

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = """\
# The job file

A job file is TOML. It describes the requests, the provider, and what is done with the answers. `asyncgen init` writes
a first one, `asyncgen init --list` names examples for several kinds of work, and `asyncgen plan` shows what a job would
send, without sending anything. `asyncgen help job` prints this page, `asyncgen help job checks` one table of it.

Templates are plain text with placeholders: `{name}` is replaced by the value of an axis or a column. Write `{{` and
`}}` for braces, as in `{{"text": "{name}"}}`. In `sample` and `target`, `{answer}` is the model's answer, and
`{answer.FIELD}` is a field of a JSON answer. There are no expressions.

Relative paths start at the folder of the job file. A row is identified by its request (model, messages, parameters) and
its repeat number. If you change a job, only the rows whose requests changed are sent and paid again.
"""

_TABLES = {
    "": "A key above the first table.",
    "grid": """\
The axes. A request is sent for every combination of values; the last axis varies fastest. The name of an axis is an
identifier. Its values are a list of texts or numbers, the lines of a file, or a column of a table (.csv, .jsonl,
.parquet). Blank values in a file are skipped, and a value that occurs twice is used once.

```toml
[grid]
size = ["small", "large"]
city = { file = "cities.txt" }
sector = { file = "stores.csv", column = "sector" }
```""",
    "rows": """\
Your own rows, instead of axes or combined with them, from one source: `file`, `run` or `files`. Columns that no
template names are ignored. Lists and objects in a cell become JSON text.""",
    "subset": "Use only some of the combinations.",
    "prompt": "The request, and the prompt and answer that the tuned model learns.",
    "prompt.examples": """\
Examples that are sent as earlier turns (few-shot). Each also has a value for every variable that `user` names.""",
    "generate": "The provider that answers, and its parameters.",
    "answer": "How an answer is read. An answer that does not have this form fails a check.",
    "checks": """\
Conditions that an answer must meet to become a training sample. They are applied to the answer as it was received.
Answers that fail stay in the run but not in the dataset.""",
    "limits": "All are optional. Without them, asyncgen adapts to the server's rate limit headers, errors and latency.",
    "dataset": "How answers become training samples.",
    "dataset.scores": "Select answers by the scores of a judge, which is a run of its own.",
    "finetune": "The fine-tuning job.",
    "on": """\
Settings for one provider. Tables under `[on.NAME]` override the others if provider `NAME` is used: as the provider that
answers for most tables, as the provider that tunes for `[dataset]`, `[finetune]`, and `sample` and `target` of
`[prompt]`. `false` removes a key or a parameter.

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
    "name": ("Name of the job; the run is kept in `runs/NAME`.", '"direct-marketing"'),
    "rows.file": ("A .csv, .jsonl or .parquet file; each column is a variable.", '"stores.csv"'),
    "rows.run": (
        (
            "Another run. Each of its answers that passed its checks is a row, with the variables of that run, its "
            "`prompt` and `answer`, and the fields of a JSON answer. `source` is the key of the answer. If that run "
            "grows, the next `generate` asks for the new rows."
        ),
        '"runs/questions"',
    ),
    "rows.files": (
        (
            "Text files that match a pattern. Each part of a file is a row, with the variables `file`, `part` and "
            "`text`. Convert PDF files to text first."
        ),
        '"docs/**/*.md"',
    ),
    "rows.split_words": (
        "Maximum number of words in a part; paragraphs stay whole. Left out: each file is one part.",
        "400",
    ),
    "rows.overlap_words": ("Number of words that a part repeats from the end of the one before.", "50"),
    "subset.size": ("Number of combinations, drawn without replacement. Left out: all.", "10000"),
    "subset.seed": ("Seed of the draw. With the same seed, a larger size includes the smaller one.", "7"),
    "subset.exclude": (
        "Combinations to leave out: those that match all values of an entry.",
        '[{ sector = "Pharmacies", size = "large" }]',
    ),
    "prompt.user": ("The user message. Required unless `messages` is set.", '"Write a message to {sector} in {city}."'),
    "prompt.system": ("The system message.", '"You write direct marketing."'),
    "prompt.messages": (
        (
            "Instead of `system` and `user`: a column of [rows] with chat messages, as `{role, content}` or in "
            "ShareGPT's form. They are sent up to the last message that needs an answer."
        ),
        '"turns"',
    ),
    "prompt.sample": (
        "The prompt of the training samples, which the tuned model will be given. Left out: the values, with commas.",
        '"{sector}, {city}"',
    ),
    "prompt.target": ("The completion in the training samples. Left out: the answer.", '"{answer}"'),
    "prompt.openings": (
        (
            "First words of the answer, sent as a last assistant message; the repeats of a combination use them in "
            "turn. Only for providers that continue such a message."
        ),
        '["In {city},"]',
    ),
    "prompt.examples.completion": ("The answer of the example.", '"Florists in Vienna can now ..."'),
    "prompt.examples.opening": (
        "Number of the opening, from 0, with which the example is sent. Left out: it is sent with all of them.",
        "0",
    ),
    "generate.provider": (
        'A name from `asyncgen providers`. "auto": the first provider whose key is in the environment, else "local".',
        '"openai"',
    ),
    "generate.model": ("The model that answers. Left out: the provider's default.", '"gpt-6-luna"'),
    "generate.repeats": ("Number of answers for each combination.", "3"),
    "generate.max_tokens": (
        "Maximum number of tokens in an answer, sent under the parameter name that the provider expects.",
        "200",
    ),
    "generate.parameters": (
        "Parameters of the request, passed to the API unchanged. They are part of a row's identity.",
        "{ temperature = 1 }",
    ),
    "answer.format": (
        '"json": an answer must be JSON, with or without a code fence; otherwise it fails the check `json`.',
        '"json"',
    ),
    "answer.schema": (
        (
            "A file with a JSON Schema; an answer that does not conform fails the check `schema`. Left out: the schema "
            "in the parameter `response_format`, if there is one."
        ),
        '"reply.schema.json"',
    ),
    "answer.each": ("A field of the answer that holds a list; each item becomes a sample.", '"pairs"'),
    "answer.messages": (
        "A field of the answer that holds messages, `{role, content}`; the conversation becomes the sample.",
        '"turns"',
    ),
    "checks.max_sentences": ("Maximum number of sentences.", "2"),
    "checks.max_words": ("Maximum number of words.", "60"),
    "checks.max_characters": ("Maximum number of characters.", "400"),
    "checks.min_words": ("Minimum number of words.", "5"),
    "checks.must_contain": (
        "Texts that the answer must contain, with the same upper and lower case; placeholders are allowed.",
        '["{city}"]',
    ),
    "checks.must_match": ("Regular expressions that must match somewhere in the answer.", "['[.!?]$']"),
    "checks.must_not_match": ("Regular expressions that must not match anywhere in the answer.", "['(?i)discount']"),
    "checks.attempts": (
        "Maximum number of requests for a row whose answers fail the checks. Each request is paid for.",
        "2",
    ),
    "limits.concurrency": ("Maximum number of requests in flight.", "64"),
    "limits.requests_per_minute": ("Maximum number of requests a minute.", "500"),
    "limits.tokens_per_minute": ("Maximum number of tokens a minute, of prompts and answers together.", "200000"),
    "limits.max_cost": ("Maximum cost in USD, over all invocations of the run. A hard stop.", "5.0"),
    "limits.timeout_s": (
        "Timeout of one attempt, in seconds. Left out: derived from the latency of earlier answers.",
        "600",
    ),
    "dataset.format": (
        (
            '"chat": lines with messages; "completion": lines with prompt and completion; "preference": pairs of a '
            "better and a worse answer."
        ),
        '"chat"',
    ),
    "dataset.system": ("The system message of every chat sample.", '"You write short adverts."'),
    "dataset.separator": ("Text at the end of every prompt, in the completion format.", '" -->"'),
    "dataset.ending": ("Text at the end of every completion, in the completion format.", '"\\n"'),
    "dataset.validation": (
        "Share of the combinations that goes to the validation file and is not trained on.",
        "0.1",
    ),
    "dataset.hold_out": (
        "Values of axes that are not trained on; all rows with one of them go to the validation file.",
        '{ city = ["Berlin"] }',
    ),
    "dataset.reasoning": (
        (
            'What to do with an answer\'s reasoning. "drop": leave it out; "think": put it before the answer, in '
            "<think> tags; any other value: put it into this field of the message, as some chat templates expect."
        ),
        '"think"',
    ),
    "dataset.chosen": ("Of a pair, the values of the better answer's row.", '{ quality = "excellent" }'),
    "dataset.rejected": ("Of a pair, the values of the worse answer's row.", '{ quality = "mediocre" }'),
    "dataset.scores": ("Select answers by the scores of a judge.", ""),
    "dataset.scores.run": ("The judge's run, which has a row for each answer of this run.", '"runs/judge"'),
    "dataset.scores.field": ("The field of the judge's answer that holds the score.", '"score"'),
    "dataset.scores.at_least": ("Minimum score.", "4"),
    "dataset.scores.best": ("Maximum number of answers for each combination; the highest scores are kept.", "1"),
    "dataset.seed": ("Seed of the split into training and validation.", "7"),
    "finetune.provider": (
        'The provider that tunes. "auto": the one that answers, if it tunes for new customers; else "local".',
        '"together"',
    ),
    "finetune.model": ("The model to tune. Left out: the provider's default.", '"gpt-4.1-mini-2025-04-14"'),
    "finetune.suffix": ("A part of the tuned model's name.", '"direct_marketing"'),
    "finetune.seed": ("Seed of the training, passed to the provider.", "7"),
    "finetune.method": ("The training method, as the provider names it.", '"dpo"'),
    "finetune.hyperparameters": ("Passed to the provider, under the names of its API.", "{ n_epochs = 4 }"),
    "finetune.metadata": ("Labels that the provider keeps with the job.", '{ team = "data" }'),
    "finetune.integrations": (
        "Passed to the provider unchanged.",
        '[{ type = "wandb", wandb = { project = "adverts" } }]',
    ),
}


def reference(only: str | None = None) -> str:
    """Return the reference as Markdown.

    Args:
        only: name of a table, with or without brackets, or of a key; None for the whole reference.

    Raises:
        UsageError: there is no table or key of that name.
    """
    chosen = _TABLES if only is None else dict.fromkeys(_tables_named(only.strip("[]")), "")
    lines = [_HEAD] if only is None else []
    for table in chosen:
        about, keys = _TABLES[table], list(_keys_of(table))
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


def _tables_named(name: str) -> list[str]:
    """The tables of that name and those inside it, or the tables that have a key of that name."""
    found = [table for table in _TABLES if table and (table == name or table.startswith(f"{name}."))]
    keys = {table: [key for key, *_ in _keys_of(table)] for table in _TABLES}
    found = found or [table for table, names in keys.items() if any(name in {k, k.rpartition(".")[2]} for k in names)]
    if not found:
        near = nearest(name, [*filter(None, _TABLES), *(key for names in keys.values() for key in names)])
        raise UsageError(
            f"a job file has no table and no key {name!r}" + (f" (did you mean {near!r}?)" if near else ""),
            help_text="asyncgen help job   (the whole reference)",
        )
    return found


def documented_keys() -> dict[str, str]:
    """Every key of the job file, with an example of its value."""
    keys = [key for table in _TABLES for key, _, _ in _keys_of(table)]
    return {key: _KEYS[key][1] if key in _KEYS else "" for key in keys}


def _entry(key: str, kind: str, default: str, words: str, example: str) -> str:
    shown = f" Example: `{key.rpartition('.')[2]} = {example}`" if example else ""
    return f"- `{key}` ({kind}; {default}). {words}{shown}"


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
        yield key, type_description(hints[field.name]), _default(field, hints[field.name])


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
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else None
    if value in (None, "") or (value is None and type(None) in get_args(hint)):
        return "optional"
    return f"default `{msgspec.json.encode(value).decode()}`"
