"""The `asyncgen` command: its subcommands, exit codes, error handling and the layout of `--help`.

A command's module is imported when the command is called, to keep help and completion fast.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import traceback
from types import FrameType
from typing import Never

import click

from asyncgen import __version__
from asyncgen.cli.help import PageMixin, add_help, usage_message
from asyncgen.cli.options import debug_option
from asyncgen.cli.output import DECLINED, show_error
from asyncgen.errors import AsyncgenError, UsageError

# name: (module and attribute, one line of help); in the order in which a newcomer meets them
_COMMANDS = {
    "run": ("run_command:run", "Run all stages: generate, prepare, fine-tune, try the model."),
    "init": ("init_command:init", "Write a job file, or an example of one."),
    "plan": ("plan_command:plan", "Show what a job would send and cost. Sends nothing."),
    "preview": ("generate_command:preview", "Send a few requests and show the answers."),
    "generate": ("generate_command:generate", "Send the requests of a job that have no answer yet."),
    "batch": ("batch_command:batch", "List, show and cancel batches (Batch API, half price)."),
    "merge": ("repair_command:merge", "Merge the finished shards of a run."),
    "status": ("show_command:status", "Show the progress of a run."),
    "show": ("show_command:show", "Show answers of a run."),
    "runs": ("show_command:runs", "List the runs: rows, state, age."),
    "report": ("report_command:report", "Report on a run's answers: coverage, lengths, duplicates."),
    "prepare": ("prepare_command:prepare", "Prepare a fine-tuning dataset from a run or a file."),
    "export": ("export_command:export", "Export answers as CSV, JSONL or Parquet, or for a trainer."),
    "finetune": ("finetune_command:finetune", "Create, follow, list and cancel fine-tuning jobs."),
    "complete": ("complete_command:complete", "Send prompts to a tuned model."),
    "evaluate": ("evaluate_command:evaluate", "Compare models and prompting techniques on held-out prompts."),
    "serve": ("serve_command:serve", "Run a local OpenAI-compatible server with a small model."),
    "view": ("view_command:view", "Show a run in the browser."),
    "repair": ("repair_command:repair", "Move damaged lines out of a run's files."),
    "providers": ("providers_command:providers", "List the providers, their API keys and features."),
    "doctor": ("doctor_command:doctor", "Check API key, connection, model, clock, disk and versions."),
    "completion": ("help:completion", "Print a shell completion script for bash, zsh or fish."),
    "help": ("help:help_command", "Explain the job file (help job) or a command."),
}

# Imports make many objects that stay, and the usual 700 would have the garbage collector scan them again and again.
_OBJECTS_TO_COLLECT = 50_000
_SAID_NO = 1  # exit code when a question was answered with no


class _Commands(PageMixin, click.Group):
    """A group whose commands are modules, imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        return add_help(getattr(importlib.import_module(f"asyncgen.cli.{module}"), attribute))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Without an API key, `asyncgen run` runs every stage on this machine.",
)
@click.version_option(__version__, "--version", "-V", message="asyncgen %(version)s")
@debug_option
def cli() -> None:
    """Generate fine-tuning data with a language model, fine-tune a model on it, and use it.

    FILE is a job file. Default: the only job file in this folder; for run, plan and preview, the built-in example.
    RUN is a run directory, or the job file that created it. Default: the newest run. To continue after an
    interruption, repeat the command.
    """


def main(arguments: list[str] | None = None) -> Never:
    """Run the command line and exit; see the README for the exit codes.

    Args:
        arguments: without the program's name; None for those of the process.
    """
    _open_closed_streams()
    received = _end_like_ctrl_c()
    gc.set_threshold(_OBJECTS_TO_COLLECT)
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    try:
        code = cli.main(args=arguments or ["--help"], prog_name="asyncgen", standalone_mode=False)
    except AsyncgenError as error:
        _trace(arguments)
        show_error(error, as_json=as_json)
        code = _SAID_NO if error.code == DECLINED else error.exit_code
    except click.ClickException as error:
        show_error(_usage_error(error), as_json=as_json)
        code = UsageError.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):
        code = 128 + next(iter(received), signal.SIGINT)
    except BrokenPipeError:
        code = 1  # the reader of the results has ended
    except Exception as error:  # noqa: BLE001 - a bug: say so, and keep the trace for --debug
        _trace(arguments)
        show_error(_bug(error), as_json=as_json)
        code = 1
    _leave_closed_streams()
    gc.freeze()  # the process ends: no need to look through all its objects once more
    sys.exit(code if isinstance(code, int) else 0)


def _open_closed_streams() -> None:
    """Put /dev/null where a shell closed a standard stream (`2>&-`).

    Otherwise a file of the run, or the event loop's, would get the stream's number, and what is printed would go there.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _end_like_ctrl_c() -> list[int]:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does: temporary files are removed, child processes are ended.

    Commands that drain have handlers of their own while they do. A signal that is ignored, as with `nohup`, stays so.

    Returns:
        Gets the number of the signal that came.
    """
    received: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
        signal.signal(number, signal.SIG_DFL)  # a second one does not wait for anything
        received.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)
    return received


def _usage_error(error: click.ClickException) -> UsageError:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "asyncgen"
    return UsageError(usage_message(error), help_text=f"{path} --help")


def _bug(error: Exception) -> AsyncgenError:
    # The text of an exception may contain a request's headers, so only its type is shown.
    return AsyncgenError(
        f"internal error in asyncgen: {type(error).__name__}",
        cause="this is a bug; the answers that were paid for are in the run directory",
        help_text="run the same command with --debug, and report its output",
        code="bug",
    )


def _trace(arguments: list[str]) -> None:
    if "--debug" in arguments or os.environ.get("ASYNCGEN_DEBUG"):
        from asyncgen.providers.endpoint import without_secrets  # noqa: PLC0415 - takes time, and is seldom needed

        # A library's error may quote a reply, and with it the key.
        print(without_secrets(traceback.format_exc()), file=sys.stderr, end="")


def _leave_closed_streams() -> None:
    """Redirect streams that nobody reads any more: their last flush would change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
