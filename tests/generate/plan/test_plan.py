"""The plan as a whole: costs, training, time, shutdown dates, break-even."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date

import orjson
import pytest

from asyncgen.generate.plan.costs import trained_tokens
from asyncgen.generate.plan.plan import Plan, PlanTarget, compare_with_tuning, make_plan, plan_as_json
from asyncgen.generate.plan.request_tokens import RequestTokens, RunMeasurements, Span, duration
from asyncgen.job.model import DatasetSettings, FinetuneSettings, Job, Limits, Prompt
from asyncgen.job.opened import OpenedJob
from asyncgen.providers.price import TokenRates
from asyncgen.providers.prices import PriceList, UserPrice
from asyncgen.providers.profiles import PROFILES, Finetuning, usual_epochs

Open = Callable[..., OpenedJob]
EXACT = RequestTokens(Span(1000, 1000), Span(500, 500), Span(500, 500), 1000.0, 100.0, "counted")
CAP = "[generate.parameters]\nmax_completion_tokens = 100\n"


def plan_of(opened: OpenedJob, there: RunMeasurements | None = None, prices: PriceList | None = None) -> Plan:
    place = PlanTarget(
        PROFILES[opened.generation],
        None,
        opened.model,
        PROFILES[opened.tuning],
        within_reach=["openai", "local"],
        jobs=lambda name: opened.file.job(opened.generation, name),
    )
    return make_plan(opened.job, opened.grid, there or RunMeasurements(), place, prices or PriceList())


def own(rates: TokenRates, **more: object) -> UserPrice:
    fields: dict[str, object] = {"tiers": {"standard": rates}, "training": None, "tuned": None}
    return UserPrice(**(fields | {"source": "test", "as_of": None} | more))  # type: ignore[arg-type]


def test_only_the_rows_left_are_priced(open_job: Open) -> None:
    whole = plan_of(open_job(CAP))
    rest = plan_of(open_job(CAP), RunMeasurements(settled=2, failed=1))
    assert (whole.left, rest.left) == (4, 1)
    assert whole.cost_usd is not None
    assert rest.cost_usd == whole.cost_usd * 0.25


def test_rows_in_open_batches_are_bought_already(open_job: Open) -> None:
    assert plan_of(open_job(CAP), RunMeasurements(settled=1, in_batches=2)).left == 1


def test_every_way_to_buy_is_shown_and_batch_is_half(open_job: Open) -> None:
    plan = plan_of(open_job(CAP))
    assert list(plan.costs) == ["standard", "flex", "batch"]
    standard, batch = plan.costs["standard"], plan.costs["batch"]
    assert standard is not None
    assert batch is not None
    assert batch.high == pytest.approx(standard.high / 2)


def test_a_job_that_asks_for_flex_is_priced_so(open_job: Open) -> None:
    plan = plan_of(open_job(CAP + 'service_tier = "flex"'))
    assert list(plan.costs) == ["flex", "batch"]
    assert plan.cost_usd == plan.costs["flex"]


def test_an_unknown_model_has_tokens_and_no_cost(open_job: Open) -> None:
    plan = plan_of(open_job(CAP, model="never-heard-of"))
    assert plan.cost_usd is None
    assert plan.tokens.prompt.low > 0
    answer = plan_as_json(plan, compare_with_tuning(plan, PriceList()))
    assert answer["cost_usd"]["standard"] is None
    assert answer["break_even"] == {"compared": [], "assumptions": []}


def test_this_machine_costs_nothing(open_job: Open) -> None:
    plan = plan_of(open_job(CAP, generation="local", tuning="local", model="smollm2-135m-instruct"))
    assert plan.cost_usd == Span(0, 0)
    assert plan.trainings[0].cost_usd == Span(0, 0)


def test_training_is_priced_at_every_provider_within_reach_the_chosen_one_first(open_job: Open) -> None:
    plan = plan_of(open_job(CAP))
    assert [(each.provider, each.chosen) for each in plan.trainings] == [("openai", True), ("local", False)]
    paid, free = plan.trainings
    assert paid.cost_usd is not None
    assert 0 < paid.cost_usd.low < paid.cost_usd.high
    assert "tuned there before" in paid.note
    assert free.cost_usd == Span(0, 0)


def test_each_provider_trains_by_its_own_tables(open_job: Open) -> None:
    plan = plan_of(open_job("[on.local.finetune.hyperparameters]\nn_epochs = 7\n"))
    assert [(each.provider, each.trained.epochs) for each in plan.trainings] == [("openai", 25), ("local", 7)]


def test_the_jobs_own_tuning_model_is_priced_at_the_provider_chosen_only(open_job: Open) -> None:
    plan = plan_of(open_job('[finetune]\nmodel = "gpt-4.1-2025-04-14"\n'))
    assert plan.trainings[0].model == "gpt-4.1-2025-04-14"
    assert plan.trainings[1].model == "smollm2-135m-instruct"


def test_models_that_stop_answering_are_named_with_their_day(open_job: Open) -> None:
    plan = plan_of(open_job(model="gpt-5-mini"))
    assert dict(plan.shutdowns) == {
        "gpt-5-mini": date(2026, 12, 11),
        "gpt-4.1-mini-2025-04-14": date(2027, 1, 14),
    }


def test_two_prompts_are_shown_as_they_would_be_sent(open_job: Open) -> None:
    first, second = plan_of(open_job(CAP)).prompts
    assert first.body["messages"][-1]["content"].endswith("to Bakers in Paris.")
    assert first.body["max_completion_tokens"] == 100
    assert first.short == "Bakers, Paris"
    assert second != first


def test_the_plan_is_json(open_job: Open) -> None:
    plan = plan_of(open_job(CAP))
    answer = orjson.loads(orjson.dumps(plan_as_json(plan, compare_with_tuning(plan, PriceList()))))
    assert answer["requests"] == answer["left"] == 4
    assert answer["shutdowns"] == {"gpt-4.1-mini-2025-04-14": "2027-01-14"}
    assert answer["prices"]["source"].startswith("genai-prices")
    assert len(answer["break_even"]["assumptions"]) >= 5


@pytest.mark.parametrize(
    ("limits", "seconds", "bound_by"),
    [
        (Limits(requests_per_minute=60), 100, "60 requests per minute"),
        (Limits(tokens_per_minute=1500), 100 * 60, "1,500 tokens per minute"),
        (Limits(concurrency=10), 100 * 3 / 10, "10 in flight"),
    ],
)
def test_the_narrowest_limit_decides_the_time(limits: Limits, seconds: float, bound_by: str) -> None:
    found = duration(100, EXACT, RunMeasurements(), limits)
    assert found.seconds == pytest.approx(seconds)
    assert bound_by in found.bound_by


def test_a_measured_latency_replaces_the_guess_and_nothing_left_takes_no_time() -> None:
    there = RunMeasurements()
    there.latency_s.add(20.0)
    assert duration(1, EXACT, there, Limits()).seconds == pytest.approx(20)
    assert "as measured" in duration(1, EXACT, there, Limits()).bound_by
    assert duration(0, EXACT, there, Limits(requests_per_minute=1)).seconds == 0


@pytest.mark.parametrize(
    ("samples", "epochs"), [(0, 25), (1, 25), (10, 10), (33, 3), (146, 3), (10_000, 2), (10**6, 1)]
)
def test_epochs_that_nobody_names_follow_the_usual_rule(samples: int, epochs: int) -> None:
    assert usual_epochs(samples) == epochs


def job(**finetune: object) -> Job:
    return Job(
        name="c",
        prompt=Prompt(user="u"),
        dataset=DatasetSettings(validation=0.1),
        finetune=FinetuneSettings(hyperparameters=finetune),
    )


OPENAI = Finetuning()


def test_trained_tokens_are_samples_times_epochs_without_the_validation_split() -> None:
    trained = trained_tokens(job(n_epochs=4), 100, EXACT, OPENAI)
    assert (trained.samples, trained.epochs) == (90, 4)
    assert trained.tokens == Span(360 * 604, 360 * 604)


def test_epochs_left_to_the_provider_are_theirs_or_the_usual_ones() -> None:
    assert trained_tokens(job(n_epochs="auto"), 100, EXACT, OPENAI).epochs == 3
    assert trained_tokens(job(), 100, EXACT, Finetuning(default_epochs=1)).epochs == 1


def compared(open_job: Open, tuned: TokenRates | None, training: float | None = 10.0) -> tuple[Plan, Span | None]:
    prices = PriceList(
        {
            ("openai", "long"): own(TokenRates(10, 10, 10)),
            ("openai", "small"): own(TokenRates(1, 1, 1), training=training, tuned=tuned),
        }
    )
    opened = open_job(CAP + '[finetune]\nmodel = "small"\n', model="long")
    plan = plan_of(opened, prices=prices)
    found, _ = compare_with_tuning(plan, prices)
    return plan, found[0].calls


def test_tuning_pays_once_its_outlay_is_saved(open_job: Open) -> None:
    plan, calls = compared(open_job, tuned=TokenRates(2, 2, 2))
    answer = round(plan.tokens.answer.middle)
    saved = (10 * (round(plan.tokens.question) + answer) - 2 * (round(plan.tokens.short_prompt) + answer)) / 1e6
    training, rows = plan.trainings[0].cost_usd, plan.cost_usd
    assert calls is not None
    assert training is not None
    assert rows is not None
    assert calls.low == math.ceil((training.low + rows.low) / saved)
    assert calls.high == math.ceil((training.high + rows.high) / saved)
    assert 0 < calls.low < calls.high


def test_tuning_never_pays_when_its_calls_are_no_cheaper(open_job: Open) -> None:
    _, calls = compared(open_job, tuned=TokenRates(100, 100, 100))
    assert calls == Span(math.inf, math.inf)


@pytest.mark.parametrize(("tuned", "training"), [(None, 10.0), (TokenRates(2, 2, 2), None)])
def test_what_is_not_known_is_not_compared(open_job: Open, tuned: TokenRates | None, training: float | None) -> None:
    _, calls = compared(open_job, tuned, training)
    assert calls is None


def test_never_is_no_number_in_json(open_job: Open) -> None:
    prices = PriceList(
        {
            ("openai", "long"): own(TokenRates(1, 1, 1)),
            ("openai", "small"): own(TokenRates(1, 1, 1), training=1.0, tuned=TokenRates(9, 9, 9)),
        }
    )
    plan = plan_of(open_job('[finetune]\nmodel = "small"\n', model="long"), prices=prices)
    answer = plan_as_json(plan, compare_with_tuning(plan, prices))["break_even"]["compared"][0]
    assert (answer["pays"], answer["calls"]) == (False, None)
