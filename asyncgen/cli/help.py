"""Help pages: layout, examples, groups of options, suggestions for unknown words; `asyncgen help` and `completion`.

Also translates click's messages. Imports no other command, so that `--help` stays fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from asyncgen.cli.output import result, show_page
from asyncgen.errors import UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from click.shell_completion import CompletionItem


# Other words that users type for a command.
_SYNONYMS = {
    "tune": "finetune", "train": "finetune", "fine-tune": "finetune", "fine_tune": "finetune", "ft": "finetune",
    "fine-tuning": "finetune", "fine_tuning": "finetune", "chat": "complete", "ask": "complete", "prompt": "complete",
    "ls": "runs", "list": "runs", "gen": "generate", "start": "run", "new": "init", "create": "init",
    "eval": "evaluate", "compare": "evaluate", "server": "serve", "ui": "view", "open": "view", "cat": "show",
    "head": "show",
    "check": "doctor", "dry-run": "plan", "estimate": "plan", "cost": "plan", "info": "status", "stats": "report",
    "version": "--version",
}  # fmt: skip

# Two for each page: what is typed, and what it does.
EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "": (
        ("asyncgen run", "run all stages of the built-in example"),
        ("asyncgen help job", "explain the job file"),
    ),
    "run": (
        ("asyncgen run", "the built-in example"),
        ("asyncgen run job.toml --until prepare", "without fine-tuning"),
    ),
    "init": (
        ("asyncgen init my-job.toml", "write a small job file"),
        ("asyncgen init --list", "list the examples"),
    ),
    "plan": (
        ("asyncgen plan job.toml", "show requests, cost and time"),
        ("asyncgen plan --break-even", "compare with the cost of fine-tuning"),
    ),
    "preview": (
        ("asyncgen preview job.toml", "show three answers"),
        ("asyncgen preview job.toml -n 10", "show ten answers"),
    ),
    "generate": (
        ("asyncgen generate job.toml", "generate the missing answers"),
        ("asyncgen generate job.toml --max-cost 5", "stop at 5 USD"),
        ("asyncgen generate job.toml --ray auto", "use every node of a Ray cluster"),
    ),
    "batch": (
        ("asyncgen batch list", "list the batches of the newest run"),
        ("asyncgen batch show", "show the newest batch"),
    ),
    "batch list": (
        ("asyncgen batch list", "the newest run"),
        ("asyncgen batch list runs/job", "this run"),
    ),
    "batch show": (
        ("asyncgen batch show", "the newest batch"),
        ("asyncgen batch show batch_abc123", "this batch"),
    ),
    "batch cancel": (
        ("asyncgen batch cancel", "the newest batch"),
        ("asyncgen batch cancel batch_abc123 -y", "this batch, without a question"),
    ),
    "status": (
        ("asyncgen status", "the newest run"),
        ("asyncgen status job.toml", "the run of this job"),
    ),
    "show": (
        ("asyncgen show --random", "five random answers"),
        ("asyncgen show --where city=Paris -n 10", "ten answers for Paris"),
    ),
    "runs": (
        ("asyncgen runs", "print a table"),
        ("asyncgen runs --json", "print JSON"),
    ),
    "report": (
        ("asyncgen report", "the newest run"),
        ("asyncgen report --html report.html", "write a web page with charts"),
    ),
    "prepare": (
        ("asyncgen prepare", "the newest run"),
        ("asyncgen prepare answers.csv", "a table of pairs"),
        ("asyncgen prepare faq.xlsx --prompt-column question --completion-column answer", ""),
    ),
    "export": (
        ("asyncgen export -o answers.csv", "prompts and completions"),
        ("asyncgen export -o answers.csv --variables --fields", "a column for each value, for spreadsheets"),
        ("asyncgen export -o answers.parquet", "every field"),
        ("asyncgen export -o dataset/", "the samples by split, and a dataset card"),
        ("asyncgen export -o dataset --for trl", "the dataset and a training script"),
    ),
    "finetune": (
        ("asyncgen finetune create", "fine-tune on the newest run"),
        ("asyncgen finetune list", "list your jobs"),
    ),
    "finetune create": (
        ("asyncgen finetune create", "the newest run's dataset"),
        ("asyncgen finetune create train.jsonl --provider local", "a file, on this machine"),
    ),
    "finetune follow": (
        ("asyncgen finetune follow", "the newest job"),
        ("asyncgen finetune follow ftjob-abc", "this job"),
    ),
    "finetune list": (
        ("asyncgen finetune list", "the newest 20 jobs"),
        ("asyncgen finetune list --limit 100", "the newest 100"),
    ),
    "finetune show": (
        ("asyncgen finetune show", "the newest job"),
        ("asyncgen finetune show ftjob-abc", "this job"),
    ),
    "finetune events": (
        ("asyncgen finetune events", "the newest job"),
        ("asyncgen finetune events ftjob-abc", "this job"),
    ),
    "finetune checkpoints": (
        ("asyncgen finetune checkpoints", "the newest job"),
        ("asyncgen finetune checkpoints ftjob-abc", "this job"),
    ),
    "finetune results": (
        ("asyncgen finetune results", "the newest job"),
        ("asyncgen finetune results -o loss.csv", "write the table to this file"),
    ),
    "finetune cancel": (
        ("asyncgen finetune cancel", "the newest job"),
        ("asyncgen finetune cancel ftjob-abc", "this job"),
    ),
    "finetune delete": (
        ("asyncgen finetune delete ft:model:name:1", "a tuned model"),
        ("asyncgen finetune delete file-abc -y", "an uploaded file"),
    ),
    "complete": (
        ("asyncgen complete 'small Hotel in New York'", "ask the newest tuned model"),
        ("asyncgen complete - --json", "read the prompts from stdin"),
    ),
    "evaluate": (
        ("asyncgen evaluate", "the models of the newest run"),
        ("asyncgen evaluate job.toml --json", "print JSON"),
    ),
    "finetune download": (
        ("asyncgen finetune download ft:model:name:1", "a tuned model"),
        ("asyncgen finetune download ftjob-abc --step 40 -o folder", "a checkpoint"),
    ),
    "serve": (
        ("asyncgen serve", "a small real model"),
        ("asyncgen serve --engine simulated --latency-ms 300 --rpm 600", "for tests"),
    ),
    "view": (
        ("asyncgen view", "the newest run"),
        ("asyncgen view runs/job --export page", "write the page to a folder"),
    ),
    "merge": (
        ("asyncgen merge", "the newest run"),
        ("asyncgen merge runs/job", "this run"),
    ),
    "repair": (
        ("asyncgen repair", "the newest run"),
        ("asyncgen repair runs/job", "this run"),
    ),
    "providers": (
        ("asyncgen providers", "print a table"),
        ("asyncgen providers --json", "print JSON"),
    ),
    "doctor": (
        ("asyncgen doctor", "check this machine and your API keys"),
        ("asyncgen doctor job.toml", "check this job, too"),
    ),
    "help": (
        ("asyncgen help job", "explain the job file"),
        ("asyncgen help finetune create", "explain a command"),
    ),
    "completion": (
        ("asyncgen completion bash >> ~/.bashrc", "for bash"),
        ("asyncgen completion fish > ~/.config/fish/completions/asyncgen.fish", ""),
    ),
}

_HEADINGS = {
    "Provider": ("provider", "base_url", "model", "api_key_file", "finetune_provider", "finetune_model"),
    "Limits": ("concurrency", "rpm", "tpm", "max_cost", "limit"),
    "Output": ("out", "as_json", "quiet", "verbose", "yes", "debug", "help"),
}
_OWN = "Options"


def add_help(command: click.Command) -> click.Command:
    """Apply the layout of our help pages to a command and its subcommands."""
    command.__class__ = _with_page(type(command))
    for option in command.params:
        if option.metavar is None and option.type.name in {"integer", "float", "integer range", "float range"}:
            option.metavar = "N"
    if isinstance(command, click.Group):
        for each in command.commands.values():
            add_help(each)
    return command


def _with_page(kind: type[click.Command]) -> type[click.Command]:
    if issubclass(kind, PageMixin):
        return kind
    return type(kind.__name__, (PageMixin, kind), {})


class PageMixin(click.Command):
    """A help page: what it does, examples, the rest, options in groups."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        first, _, rest = (self.help or "").strip().partition("\n\n")
        formatter.write_paragraph()
        formatter.write_text(" ".join(first.split()))
        self._write_examples(_path(ctx), formatter)
        formatter.write_paragraph()
        self.format_usage(ctx, formatter)
        for paragraph in filter(None, rest.split("\n\n")):
            formatter.write_paragraph()
            formatter.write_text(" ".join(paragraph.split()))
        self.format_options(ctx, formatter)
        self.format_epilog(ctx, formatter)

    def get_short_help_str(self, limit: int = 45) -> str:  # noqa: ARG002 - a text that is cut off says nothing
        return (self.help or "").strip().partition("\n\n")[0].partition(": ")[0].replace("\n", " ")

    def _write_examples(self, path: str, formatter: click.HelpFormatter) -> None:
        examples = EXAMPLES.get(path, ())
        if not examples:
            return
        formatter.write_paragraph()
        formatter.write("Examples:\n")
        width = max(len(command) for command, why in examples if why or len(examples) == 1)
        for command, why in examples:
            remark = f"{command:{width}}   {why}".rstrip()
            fits = len(remark) + 2 <= formatter.width
            formatter.write(f"  {remark if fits else command}\n")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        headings = {name: heading for heading, names in _HEADINGS.items() for name in names}
        groups: dict[str, list[tuple[str, str]]] = {_OWN: [], **{heading: [] for heading in _HEADINGS}}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and record[1]:  # click 8.5.1 lists arguments too, without a text
                # click 8.5 names its help option differently
                name = "help" if "--help" in parameter.opts else parameter.name or ""
                groups[headings.get(name, _OWN)].append(record)
        for heading, records in groups.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a group's command; the error for an unknown one suggests the nearest name."""
        assert isinstance(self, click.Group)
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise click.UsageError(unknown_command(args[0], self.list_commands(ctx), ctx.command_path), ctx)
        return super().resolve_command(ctx, args)  # type: ignore[misc, no-any-return]


def _path(ctx: click.Context) -> str:
    return " ".join(ctx.command_path.split()[1:])


def unknown_command(word: str, names: Iterable[str], group: str) -> str:
    """The message for an unknown command of `group`."""
    names = list(names)
    synonym = _SYNONYMS.get(word.lower()) if group.strip() in {"asyncgen", ""} else None
    near = synonym or nearest(word.lower(), names)
    meant = f" (did you mean {group + ' ' + near!r}?)" if near else ""
    return f"there is no command '{group} {word}'{meant}"


def usage_message(error: click.ClickException) -> str:
    """Reword one of click's error messages."""
    if isinstance(error, click.NoSuchOption):
        meant = nearest(error.option_name.lstrip("-"), [each.lstrip("-") for each in error.possibilities or ()])
        near = f" (did you mean --{meant}?)" if meant else ""
        if not meant and error.ctx is not None and error.ctx.parent is None:
            near = ": options follow the command, as in `asyncgen status --json`"
        return f"there is no option {error.option_name}{near}"
    if isinstance(error, click.MissingParameter):
        return f"{_name_of(error.param)} is missing"
    if isinstance(error, click.BadParameter):
        return _bad_value(error)
    message = error.format_message().rstrip(".")
    if isinstance(error, click.BadOptionUsage):
        return f"{error.option_name} needs a value" if "requires an argument" in message else message
    if "unexpected extra argument" in message:
        words = message.partition("(")[2].rstrip(")")
        return f"too many arguments: {words}"
    return message


def _name_of(parameter: click.Parameter | None) -> str:
    if parameter is None:
        return "an argument"
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    return (parameter.metavar or (parameter.name or "").upper()).strip("[]")


def _place_of(error: click.BadParameter) -> str:
    """The option, or the environment variable that its value is from."""
    parameter, context = error.param, error.ctx
    if parameter is not None and parameter.envvar and context is not None:
        is_variable = context.get_parameter_source(parameter.name or "") is ParameterSource.ENVIRONMENT
        if is_variable and isinstance(parameter.envvar, str):
            return parameter.envvar
    return _name_of(parameter)


def _bad_value(error: click.BadParameter) -> str:
    parameter = error.param
    wanted = _wanted(parameter.type) if parameter is not None else ""
    if not wanted:
        return f"{_place_of(error)}: {error.message.rstrip('.')}"
    return f"{_place_of(error)} must be {wanted}, not {_quoted(error.message)}"


def _quoted(message: str) -> str:
    """The value that click's message begins with."""
    found = message.partition("'")[2].partition("'")[0]
    return repr(found or message.split(" ", 1)[0])


def _wanted(kind: Any) -> str:
    if isinstance(kind, click.Choice):
        return "one of " + ", ".join(map(str, kind.choices))
    whole = isinstance(kind, click.IntRange) or kind is click.INT
    if not whole and not isinstance(kind, click.FloatRange) and kind is not click.FLOAT:
        return ""
    noun = "a whole number" if whole else "a number"
    low, high = getattr(kind, "min", None), getattr(kind, "max", None)
    if low is not None and high is not None:
        below = "below " if kind.max_open else ""
        return f"{noun} from {low:g} to {below}{high:g}"
    if low is not None:
        return f"{noun} above {low:g}" if kind.min_open else f"{noun}, {low:g} or more"
    return noun


_JOB = "job"


@click.command("help")
@click.argument("topic", nargs=-1, metavar="[TOPIC]")
@click.pass_context
def help_command(context: click.Context, topic: tuple[str, ...]) -> None:
    """Explain TOPIC: the keys of the job file (job), those of one table (job checks), or a command.

    On a terminal a long page opens in a pager ($PAGER).
    """
    parent = context.parent
    assert parent is not None
    assert isinstance(parent.command, click.Group)
    if not topic:
        result(parent.get_help())
        return
    if topic[0] == _JOB:
        from asyncgen.job.reference import reference  # noqa: PLC0415 - imports msgspec

        show_page(reference(".".join(topic[1:]) or None))
        return
    command: click.Command = parent.command
    for word in topic:
        found = command.get_command(parent, word) if isinstance(command, click.Group) else None
        if found is None:
            names = command.list_commands(parent) if isinstance(command, click.Group) else []
            what = unknown_command(word, [*names, _JOB], parent.command_path)
            raise UsageError(what, help_text="asyncgen help   (lists the commands)")
        command, parent = found, click.Context(found, info_name=word, parent=parent)
    result(command.get_help(parent))


_SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a completion script for bash, zsh or fish.

    It completes commands, options, providers, runs, and the names of tuned models.
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - only here

    kind = get_completion_class(shell)
    assert kind is not None, "one of the shells that click knows"
    result(kind(context.find_root().command, {}, "asyncgen", "_ASYNCGEN_COMPLETE").source().strip())


def _items(names: list[str], begun: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - only while a shell completes

    return [CompletionItem(name) for name in names if name.startswith(begun)]


def providers(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Names of providers, the user's own among them."""
    from asyncgen.providers.choose import profiles_here  # noqa: PLC0415 - only while a shell completes

    return _items(list(profiles_here()), begun)


def runs_and_files(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete run directories, job files and other files."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - only while a shell completes

    from asyncgen.cli.arguments import RUNS, job_files  # noqa: PLC0415 - as above

    names = sorted(str(state.parent) for state in RUNS.glob("*/run.json"))
    found = _items([*names, *map(str, job_files(Path()))], begun)
    return found or [CompletionItem(begun, type="file")]


def models(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Models that runs here have tuned."""
    from asyncgen.cli.arguments import RUNS  # noqa: PLC0415 - only while a shell completes
    from asyncgen.errors import AsyncgenError  # noqa: PLC0415 - as above
    from asyncgen.run.state import read_state  # noqa: PLC0415 - as above

    names: list[str] = []
    for path in RUNS.glob("*/run.json"):
        try:
            names += [job.tuned_model for job in read_state(path).finetuning if job.tuned_model]
        except AsyncgenError:
            continue  # a damaged run has no models
    return _items(names, begun)
