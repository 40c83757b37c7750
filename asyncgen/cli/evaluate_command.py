"""`asyncgen evaluate`: models and prompting techniques compared on rows held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from asyncgen.cli.options import (
    api_key_file_option,
    base_url_option,
    limit_options,
    output_options,
    retry_failed_option,
    run_argument,
    yes_option,
)
from asyncgen.cli.output import json_result, result, say

_NEXT = "NAME=TECHNIQUE:PROVIDER/MODEL"


@click.command("evaluate")
@run_argument
@click.option("--contestant", "contestants", multiple=True, metavar=_NEXT,
              help="Who takes part, several times; techniques: zero-shot, prompt, few-shot, tuned.  "
              "[default: base and tuned model, and whoever wrote the data]")  # fmt: skip
@click.option("--axis", "axes", multiple=True, metavar="NAME=VALUE,...", help="Ask for values outside the grid.")
@click.option("-n", "rows", type=click.IntRange(min=1), default=100, show_default=True, help="The most rows asked.")
@click.option("--k", "examples", type=click.IntRange(min=1), default=4, show_default=True,
              help="Examples shown in few-shot.")  # fmt: skip
@click.option("--nearest", is_flag=True, help="Show the samples most like each row, not the same ones for all.")
@click.option("--judge", metavar="PROVIDER/MODEL", help="Let a model compare the answers, in both orders.")
@click.option("--all-pairs", is_flag=True, help="The judge compares everybody with everybody.")
@click.option("--margin", "margin_points", type=click.FloatRange(min=0, max=100),
              help="Points by which a cheaper contestant may be worse; fixed before anything is bought.  "
              "[default: 5]")  # fmt: skip
@click.option("--seed", type=int, default=7, show_default=True, help="Decides rows, examples and intervals.")
@click.option("--name", metavar="NAME", help="The evaluation's folder in the run.  [default: one for these settings]")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page of answers side by side.")
@click.option("--votes", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
              help="Take in the votes that the page saved.")  # fmt: skip
@base_url_option
@api_key_file_option
@limit_options
@retry_failed_option
@yes_option
@output_options
def evaluate(
    run: Path | None,
    *,
    contestants: tuple[str, ...],
    axes: tuple[str, ...],
    html: Path | None,
    votes: Path | None,
    yes: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Compare prompting techniques and tuned models on prompts that RUN's model was not trained on.

    Every answer is kept in the run, under evaluations/: the same command goes on where it stopped and pays for
    nothing twice. --base-url and --api-key-file belong to the provider that wrote the run's data.
    """
    from asyncgen.cli.evaluate_lines import evaluation_lines  # noqa: PLC0415 - imports aiohttp
    from asyncgen.cli.loop import run as run_loop  # noqa: PLC0415 - likewise
    from asyncgen.cli.screen import Screen  # noqa: PLC0415 - likewise
    from asyncgen.evaluate.asking import AskOptions  # noqa: PLC0415 - likewise
    from asyncgen.evaluate.page import take_votes, write_page  # noqa: PLC0415 - likewise
    from asyncgen.evaluate.result import as_json as as_object  # noqa: PLC0415 - likewise
    from asyncgen.evaluate.rows import parse_axes  # noqa: PLC0415 - likewise
    from asyncgen.evaluate.session import WantedEvaluation, evaluate_run  # noqa: PLC0415 - likewise
    from asyncgen.finetune.target import RUNS  # noqa: PLC0415 - likewise
    from asyncgen.run.directory import find_run  # noqa: PLC0415 - likewise

    directory = find_run(run, root=RUNS)
    asking = {name: options.pop(name) for name in AskOptions.__dataclass_fields__ if name in options}
    wanted = WantedEvaluation(
        contestants=contestants or None, axes=parse_axes(axes), options=AskOptions(**asking), **options
    )
    done = run_loop(evaluate_run(directory, wanted, Screen(yes=yes)))
    if done.evaluation is None:
        return done.exit_code
    evaluation = done.evaluation
    agreed = take_votes(evaluation, votes)
    if html is not None:
        write_page(evaluation, html)
        say(f"the answers side by side: {html}")
    if as_json:
        json_result({**as_object(evaluation), "votes": agreed.as_json() if agreed else None})
        return done.exit_code
    for line in evaluation_lines(evaluation, agreed):
        result(line)
    return done.exit_code
