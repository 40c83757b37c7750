"""`asyncgen plan`: what a job would send, and what that would cost, as text or JSON.

The figures are made in `generate.plan`. Also checks all stages of a run before the first request is paid for, and
collects every problem into one error; sends nothing.
"""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
import orjson

from asyncgen.cli.arguments import job_file, next_command
from asyncgen.cli.options import (
    concurrency_option,
    endpoint_options,
    file_argument,
    out_option,
    output_options,
    rpm_option,
    tpm_option,
)
from asyncgen.cli.output import json_result, result, say
from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.finetune.api import JobOrder, check_order, with_defaults
from asyncgen.finetune.source import model_to_tune, order_of
from asyncgen.generate.plan.plan import (
    Plan,
    PlannedPrompt,
    PlanTarget,
    compare_with_tuning,
    make_plan,
    plan_as_json,
    tuners_within_reach,
)
from asyncgen.generate.plan.request_tokens import Span, measure_run
from asyncgen.job.opened import open_named_job
from asyncgen.providers.choose import EndpointFlags, addressed_endpoint, named_address
from asyncgen.providers.price import FREE
from asyncgen.providers.profiles import LOCAL, ProviderChoice
from asyncgen.providers.user_files import load_price_list
from asyncgen.run.directory import RunDirectory
from asyncgen.terminal import counted, usd, usd_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from asyncgen.generate.plan.costs import BreakEven, Training
    from asyncgen.job.model import Limits
    from asyncgen.job.opened import OpenedJob


_LABEL = 11
_SHOWN_CHARACTERS = 500  # characters of each end of a long prompt
_PLACE = ("out", "provider", "base_url", "model", "api_key_file")


def plan_lines(plan: Plan) -> Iterator[str]:
    """Lines of the plan, without the comparison with tuning."""
    yield f"{counted(plan.requests, 'request')} to {plan.model} at {plan.provider}"
    if plan.excluded:
        yield f"left out by subset.exclude: {plan.excluded:,}"
    there = plan.there
    if there.twins:
        verbs = ("row has", "shares") if there.twins == 1 else ("rows have", "share")
        yield f"{there.twins:,} {verbs[0]} the same request as another row and {verbs[1]} its answer"
    stale = (
        f"; {counted(there.stale, 'more answer does', 'more answers do')} not belong to this job any more"
        if there.stale
        else ""
    )
    waiting = f", {there.in_batches:,} in open batches" if there.in_batches else ""
    counts = f"{there.settled:,} answered, {there.failed:,} failed{waiting}"
    yield f"so far: {counts}; to send: {plan.left:,}{stale}"
    for number, prompt in enumerate(plan.prompts, 1):
        yield ""
        yield from _prompt_lines(f"prompt {number}", prompt)
    yield ""
    yield from labelled("tokens", [_tokens(plan), f"({plan.tokens.basis})"])
    yield from labelled("cost", _cost_lines(plan))
    yield from labelled("training", list(map(_training_line, plan.trainings)))
    yield from labelled("time", [f"at least {clock(plan.duration.seconds)}: {plan.duration.bound_by}"])
    gone = [f"{model} will be shut down on {day}" for model, day in plan.shutdowns]
    yield from labelled("shutdown", gone)
    yield from labelled("note", list(plan.remarks))


def break_even_lines(compared: list[BreakEven], taken_for_granted: list[str]) -> Iterator[str]:
    """The number of calls from which tuning is cheaper, and the assumptions."""
    yield ""
    if not compared:
        yield "break-even: unknown, because the price of the generating model is not known"
        return
    yield f"break-even, against {usd(compared[0].long_call_usd)} for a call with the long prompt:"
    yield from (f"  {_break_even_line(each)}" for each in compared)
    yield "assumed:"
    yield from (f"  - {each}" for each in taken_for_granted)


def usd_span(span: Span | None) -> str:
    """A range of amounts; "unknown" if there is none."""
    return "unknown" if span is None else usd_range(span.low, span.high)


def clock(seconds: float) -> str:
    """A duration in its two largest units."""
    whole = math.ceil(seconds)
    for size, unit, smaller_size, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller_size} {smaller}"
    return f"{whole} s"


def labelled(label: str, lines: list[str]) -> Iterator[str]:
    """Lines with a label before the first."""
    for number, line in enumerate(lines):
        yield f"{'' if number else label:{_LABEL}}{line}"


def _prompt_lines(label: str, prompt: PlannedPrompt) -> Iterator[str]:
    yield f"{label}; short prompt for the tuned model: {_shortened(prompt.short)}"
    for message in prompt.body["messages"]:
        first, *rest = _shortened(_message_text(message)).strip().splitlines() or [""]
        yield f"  {message['role']}: {first}"
        yield from (f"    {line}" for line in rest)
    parameters = {name: value for name, value in prompt.body.items() if name not in {"model", "messages"}}
    if parameters:
        yield f"  parameters: {json.dumps(parameters, ensure_ascii=False)}"  # with spaces, so that it can be wrapped


def _message_text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else orjson.dumps(content or message.get("tool_calls")).decode()


def _shortened(text: str) -> str:
    """A long text's first and last characters, and how many were left out."""
    left_out = len(text) - 2 * _SHOWN_CHARACTERS
    if left_out <= _SHOWN_CHARACTERS // 10:
        return text
    return f"{text[:_SHOWN_CHARACTERS]} [... {left_out:,} characters ...] {text[-_SHOWN_CHARACTERS:]}"


def _tokens(plan: Plan) -> str:
    if not plan.left:
        return "none: every row has an answer"
    return f"in {_counts(plan.tokens.prompt * plan.left)}, out {_counts(plan.tokens.completion * plan.left)}"


def _counts(span: Span) -> str:
    return f"{span.low:,.0f} to {span.high:,.0f}"


def _cost_lines(plan: Plan) -> list[str]:
    if plan.price is FREE:
        return ["free: it runs on this machine"]
    if plan.price is None:
        return [f"unknown: there is no price of {plan.model} at {plan.provider}; you can set one in prices.toml"]
    lines = [f"{tier:9} {usd_span(cost)}" for tier, cost in plan.costs.items()]
    day = f" of {plan.price.as_of}" if plan.price.as_of else ""
    return [*lines, f"(estimate, prices{day}: {plan.price.source})"]


def _training_line(training: Training) -> str:
    cost = "free" if training.cost_usd == Span(0, 0) else usd_span(training.cost_usd)
    trained = training.trained
    bill = (
        f"{counted(trained.samples, 'sample')} x {counted(trained.epochs, 'epoch')} = {_counts(trained.tokens)} tokens"
    )
    remarks = [bill, *(["selected"] if training.chosen else []), *([training.note] if training.note else [])]
    if training.price is not None and training.price.as_of is not None:
        remarks.append(f"prices of {training.price.as_of}")
    return f"{training.provider}, {training.model}: {cost} ({'; '.join(remarks)})"


def _break_even_line(compared: BreakEven) -> str:
    where = f"{compared.provider}, {compared.model}"
    if compared.hosting is not None and compared.calls_an_hour is not None:
        hourly = f"{usd(compared.hosting.usd_per_hour)} an hour, with or without calls ({compared.hosting.hardware})"
        spent = f"; plus {usd_span(compared.outlay_usd)} for rows and training" if compared.outlay_usd else ""
        return f"{where}: only above {compared.calls_an_hour:,} calls an hour, as its endpoint costs {hourly}{spent}"
    if compared.tuned_call_usd is None or compared.calls is None:
        return f"{where}: unknown, because the price of training or of calls to the tuned model is not known"
    call = f"{usd(compared.tuned_call_usd)} a call"
    if math.isinf(compared.calls.low):
        return f"{where}: never, because calls to the tuned model ({call}) are not cheaper"
    low, high = compared.calls.low, compared.calls.high
    calls = f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
    return f"{where}: after {calls} calls ({call}; {usd_span(compared.outlay_usd)} for rows and training)"


@click.command("plan")
@file_argument
@out_option
@endpoint_options
@click.option("--finetune-provider", metavar="NAME", help="The provider for fine-tuning.")
@concurrency_option
@rpm_option
@tpm_option
@click.option(
    "--break-even", is_flag=True, help="Show after how many calls fine-tuning is cheaper than the long prompt."
)
@output_options
def plan(
    file: Path | None,
    *,
    out: Path | None,
    finetune_provider: str | None,
    concurrency: int | None,
    rpm: float | None,
    tpm: float | None,
    break_even: bool,
    as_json: bool,
    **where: Any,
) -> None:
    """Show what FILE would send, which answers exist already, and the cost and time of the rest. Sends nothing.

    Prices are the published ones, unless a prices.toml beside the job file or in $XDG_CONFIG_HOME/asyncgen sets yours.
    """
    job = job_file(file, built_in=True)
    flags = EndpointFlags(**where)
    opened, generation, tuning = open_named_job(job, flags, finetune_provider=finetune_provider)
    prices = load_price_list(opened.file.path and opened.file.folder, os.environ)
    there = measure_run(RunDirectory(out or Path("runs", opened.job.name)), opened.grid)
    place = PlanTarget(
        generation.profile,
        named_address(generation.profile, flags),
        opened.model,
        tuning.profile,
        tuners_within_reach(opened.file.profiles),
        lambda name: opened.file.job(generation.profile.name, name),
    )
    limits = _limits(opened.job.limits, concurrency, rpm, tpm)
    made = make_plan(
        msgspec.structs.replace(opened.job, limits=limits), opened.grid, there, place, prices, opened.remarks
    )
    compared = compare_with_tuning(made, prices) if break_even else None
    if as_json:
        json_result(plan_as_json(made, compared))
        return
    ahead = RunForecast(opened, generation, flags, tuning, tuning_flags(opened, flags), None, yes=True)
    later = labelled("then", forecast_lines(ahead, find_problems(ahead)))
    for line in (*plan_lines(made), *later, *(break_even_lines(*compared) if compared else ())):
        result(line)
    say(f"next: {_next_step(job, made.left)}")


def _next_step(job: Path | None, left: int) -> str:
    if job is None:
        return next_command("run", keep=_PLACE)  # the only command that sends all of the built-in job
    return next_command("generate", job, keep=_PLACE) if left else next_command("prepare", job)


def _limits(limits: Limits, concurrency: int | None, rpm: float | None, tpm: float | None) -> Limits:
    return msgspec.structs.replace(
        limits,
        concurrency=concurrency or limits.concurrency,
        requests_per_minute=rpm or limits.requests_per_minute,
        tokens_per_minute=tpm or limits.tokens_per_minute,
    )


@dataclass(frozen=True, slots=True)
class RunForecast:
    """What a `run` is going to do.

    Attributes:
        opened: the job.
        generation: the provider that answers.
        generation_flags: its flags.
        tuning: the provider that tunes.
        tuning_flags: its flags.
        model: the model to tune; None for the job's, else the provider's default.
        yes: whether every question is answered with yes.
    """

    opened: OpenedJob
    generation: ProviderChoice
    generation_flags: EndpointFlags
    tuning: ProviderChoice
    tuning_flags: EndpointFlags
    model: str | None
    yes: bool

    @property
    def order(self) -> JobOrder:
        """The fine-tuning job to create; raises UsageError if no model is known."""
        settings = self.opened.file.job(self.generation.profile.name, self.tuning.profile.name).finetune
        return order_of(model_to_tune(self.tuning, self.model or settings.model), settings)


def tuning_flags(opened: OpenedJob, where: EndpointFlags) -> EndpointFlags:
    """Flags of the tuning stage: the given address applies to it, too, if both stages have the same provider."""
    same = opened.tuning == opened.generation
    return EndpointFlags(
        provider=opened.tuning,
        base_url=where.base_url if same else None,
        api_key_file=where.api_key_file if same else None,
    )


def find_problems(ahead: RunForecast, *, tuning: bool = True) -> list[tuple[str, AsyncgenError]]:
    """Find what would stop each stage.

    Args:
        ahead: what the run is going to do.
        tuning: whether it includes the fine-tuning job.

    Returns:
        Name of each stage that is stopped, and the problem.
    """
    found = _problem_of(
        "generate", lambda: _check_endpoint(ahead.generation, ahead.generation_flags, ahead.opened.model)
    )
    if not tuning:
        return found
    found += _problem_of("prepare", lambda: _check_samples(ahead))
    found += _problem_of("finetune", lambda: _check_endpoint(ahead.tuning, ahead.tuning_flags, ""))
    found += _problem_of("finetune", lambda: _check_order(ahead))
    return found + _problem_of("finetune", lambda: _check_consent(ahead))


def refuse_problems(found: list[tuple[str, AsyncgenError]]) -> None:
    """Raise an error if a stage cannot be done, before anything is sent.

    Raises:
        AsyncgenError: of the first problem's kind, with all of them.
    """
    if not found:
        return
    first = found[0][1]
    if len(found) == 1:
        raise first
    cause = "\n".join(f"{stage}: {_error_text(error)}" for stage, error in found)
    helps = dict.fromkeys(error.help_text for _, error in found if error.help_text)
    raise type(first)(
        f"{counted(len(found), 'problem')} would stop this run; nothing has been sent",
        cause=cause,
        help_text="; ".join(helps) or None,
    )


def forecast_lines(ahead: RunForecast, found: list[tuple[str, AsyncgenError]]) -> list[str]:
    """Lines about the later stages, for `plan`."""
    try:
        will = f"fine-tune {ahead.order.model} at {ahead.tuning.profile.name} ({ahead.tuning.why})"
    except AsyncgenError:
        will = f"fine-tune at {ahead.tuning.profile.name} ({ahead.tuning.why})"
    finetuning = ahead.tuning.profile.finetuning
    closed = finetuning is not None and not finetuning.new_customers
    limits = ["note: it only fine-tunes for customers who did so before"] if closed else []
    return [will, *limits, *(f"missing for {stage}: {_error_text(error)}" for stage, error in found)]


def _problem_of(stage: str, check: Callable[[], object]) -> list[tuple[str, AsyncgenError]]:
    try:
        check()
    except AsyncgenError as error:
        return [(stage, error)]
    return []


def _error_text(error: AsyncgenError) -> str:
    return error.what + (f" ({error.cause})" if error.cause else "")


def _check_endpoint(choice: ProviderChoice, where: EndpointFlags, model: str) -> None:
    if choice.profile.name != LOCAL or named_address(choice.profile, where) is not None:
        addressed_endpoint(choice, where, model)


def _check_samples(ahead: RunForecast) -> None:
    finetuning = ahead.tuning.profile.finetuning
    job, requests = ahead.opened.job, ahead.opened.grid.count
    if finetuning is None or getattr(job.answer, "each", None) or requests >= finetuning.min_samples:
        return
    raise UsageError(
        f"{counted(requests, 'request')} give at most {counted(requests, 'sample')}, but "
        f"{ahead.tuning.profile.title} requires at least {finetuning.min_samples}",
        help_text="add values to [grid] or repeats under [generate], or stop before fine-tuning with --until prepare",
        code="too_few",
    )


def _check_order(ahead: RunForecast) -> None:
    profile = ahead.tuning.profile
    assert profile.finetuning is not None, "the choice of a provider sees to it"
    check_order(with_defaults(ahead.order, profile.finetuning), profile)


def _check_consent(ahead: RunForecast) -> None:
    finetuning = ahead.tuning.profile.finetuning
    if ahead.yes or finetuning is None or finetuning.free or (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    raise UsageError(
        f"the fine-tuning job at {ahead.tuning.profile.title} costs money, and there is no terminal to confirm it",
        help_text="add --yes, or stop before fine-tuning with --until prepare",
        code="needs_yes",
    )
