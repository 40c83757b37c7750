"""asyncgen.providers.prices and where prices come from."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from typing import TYPE_CHECKING

import pytest

from asyncgen.errors import UsageError
from asyncgen.providers.price import BATCH, FLEX, tier_of
from asyncgen.providers.prices import PriceList, base_model, hosting_price, shutdown_date, tuned_model
from asyncgen.providers.profiles import PROFILES
from asyncgen.providers.user_files import configuration_folder, load_price_list
from asyncgen.run.records import Usage

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.providers.price import Price

OPENAI = "https://api.openai.com/v1"
MILLION_EACH = Usage(prompt_tokens=100_000, completion_tokens=1_000_000)


def found(price: Price | None) -> Price:
    assert price is not None
    return price


def test_a_published_price_has_its_tiers_source_and_day() -> None:
    price = found(PriceList().price("openai", OPENAI, "gpt-6-luna"))
    assert price.cost_usd(MILLION_EACH) == pytest.approx(0.01 + 0.50)
    assert price.cost_usd(MILLION_EACH, BATCH) == pytest.approx((0.01 + 0.50) / 2)
    assert price.cost_usd(MILLION_EACH, FLEX) == pytest.approx((0.01 + 0.50) / 2)
    assert price.cost_usd(MILLION_EACH, "priority") > price.cost_usd(MILLION_EACH)
    assert price.source.startswith("genai-prices ")
    assert price.as_of is not None
    assert date(2026, 9, 1) < price.as_of <= date.today()  # noqa: DTZ011 - any zone's today will do


def test_a_dated_snapshot_has_its_models_price() -> None:
    assert PriceList().price("openai", OPENAI, "gpt-6-luna-2026-09-22") == PriceList().price(
        "openai", OPENAI, "gpt-6-luna"
    )


def test_long_prompts_cost_their_step() -> None:
    price = found(PriceList().price("openai", OPENAI, "gpt-6-luna"))
    assert price.cost_usd(Usage(prompt_tokens=300_000)) == pytest.approx(0.3 * 0.20)


@pytest.mark.parametrize("model", ["no-such-model", "", "ft:", "whisper-1", "text-embedding-3-small"])
def test_a_model_that_is_unknown_or_not_sold_by_the_token_has_no_price(model: str) -> None:
    assert PriceList().price("openai", OPENAI, model) is None


def test_an_unknown_provider_has_no_price() -> None:
    assert PriceList().price("somebody", None, "gpt-6-luna") is None


def test_a_provider_at_each_users_own_address_has_its_prices() -> None:
    address = "https://somebody.openai.azure.com/openai/v1"
    assert found(PriceList().price("azure", address, "gpt-4.1-mini")).cost_usd(Usage(1_000_000)) == pytest.approx(0.4)


def test_this_machine_is_free() -> None:
    price = found(PriceList().price("local", "http://127.0.0.1:1/v1", "smollm2-135m-instruct"))
    assert price.cost_usd(MILLION_EACH) == 0
    assert price.cost_usd(MILLION_EACH, BATCH) == 0


@pytest.mark.parametrize("address", ["http://127.0.0.1:8000/v1", "https://models.example.org/v1"])
def test_another_address_is_not_charged_at_the_profiles_prices(address: str) -> None:
    assert PriceList().price("openai", address, "gpt-6-luna") is None


@pytest.mark.parametrize("provider", ["openai", "custom"])
def test_another_address_has_the_prices_published_for_it(provider: str) -> None:
    price = found(PriceList().price(provider, "https://api.groq.com/openai/v1", "openai/gpt-oss-20b"))
    assert price.cost_usd(Usage(prompt_tokens=1_000_000)) == pytest.approx(0.075)


def test_a_tuned_model_costs_what_tuned_models_of_its_base_cost() -> None:
    price = found(PriceList().price("openai", OPENAI, "ft:gpt-4.1-mini-2025-04-14:org:mail:abc"))
    assert price.cost_usd(Usage(1_000_000, 0, 1_000_000)) == pytest.approx(0.80 + 3.20)
    assert price.as_of == date(2026, 11, 22)


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        ("openai", "gpt-4.1-mini-2025-04-14", (5.0, 5.0)),
        ("nebius", "meta-llama/Llama-3.1-8B-Instruct", (0.40, 0.40)),
        ("nebius", "meta-llama/Llama-3.3-70B-Instruct", (2.80, 2.80)),
        ("together", "Qwen/Qwen3.5-9B", (0.48, 1.35)),
        ("together", "meta-llama/Llama-3.3-70B-Instruct-Reference", (2.90, 8.00)),
        ("together", "moonshotai/Kimi-K2-1000B", None),
        ("openai", "gpt-6-luna", None),
        ("local", "smollm2-135m-instruct", None),
    ],
)
def test_training_prices_by_name_or_size(provider: str, model: str, expected: tuple[float, float] | None) -> None:
    price = PriceList().training(provider, model)
    assert (price and price.cost_usd(1_000_000)) == expected


def test_every_tuned_model_is_priced_with_a_day() -> None:
    price = tuned_model("openai", "gpt-4o-mini")
    assert price is not None
    assert price.as_of == date(2026, 11, 22)


@pytest.mark.parametrize(
    ("model", "base"),
    [("ft:gpt-4.1-mini-2025-04-14:org::id", "gpt-4.1-mini-2025-04-14"), ("gpt-4.1", None), ("ft:x", None)],
)
def test_the_base_of_a_tuned_model_is_in_its_name(model: str, base: str | None) -> None:
    assert base_model(model) == base


@pytest.mark.parametrize(
    ("parameters", "tier"),
    [
        ({}, "standard"),
        ({"service_tier": "auto"}, "standard"),
        ({"service_tier": "flex"}, "flex"),
        ({"service_tier": "fast"}, "priority"),
    ],
)
def test_the_tier_is_what_the_parameters_ask_for(parameters: dict[str, object], tier: str) -> None:
    assert tier_of(parameters) == tier


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prices.toml").write_text(text, encoding="utf-8")
    return folder


OWN = """
date = 2026-11-01
[openai."my-model"]
input = 1
output = 2.5
batch = { input = 0.5, output = 1 }
[openai."gpt-4.1-mini-2025-04-14"]
training = 4
tuned = { input = 7, output = 7 }
"""


def test_the_users_prices_win(tmp_path: Path) -> None:
    prices = load_price_list(write(tmp_path, OWN), {})
    price = found(prices.price("openai", "http://127.0.0.1:8000/v1", "my-model"))
    assert price.cost_usd(Usage(1_000_000, 1_000_000, 1_000_000)) == pytest.approx(3.5)
    assert price.cost_usd(Usage(1_000_000, 0, 1_000_000), BATCH) == pytest.approx(1.5)
    assert price.cost_usd(Usage(1_000_000), FLEX) == pytest.approx(1.0), "no flex price: the standard one"
    assert (price.source, price.as_of) == (str(tmp_path / "prices.toml"), date(2026, 11, 1))


def test_an_entry_for_training_leaves_the_published_price_alone(tmp_path: Path) -> None:
    prices = load_price_list(write(tmp_path, OWN), {})
    model = "gpt-4.1-mini-2025-04-14"
    assert found(prices.price("openai", OPENAI, model)).source.startswith("genai-prices")
    training = prices.training("openai", model)
    assert training is not None
    assert training.cost_usd(1_000_000) == (4, 4)
    assert found(prices.price("openai", OPENAI, f"ft:{model}:o::i")).cost_usd(Usage(1_000_000)) == 7


def test_the_file_beside_the_job_wins_over_the_configuration_folders(tmp_path: Path) -> None:
    write(tmp_path / "config" / "asyncgen", "[openai.m]\ninput = 1\noutput = 1\n[openai.n]\ninput = 3\noutput = 3")
    beside = write(tmp_path / "job", "[openai.m]\ninput = 2\noutput = 2")
    prices = load_price_list(beside, {"XDG_CONFIG_HOME": str(tmp_path / "config")})
    assert found(prices.price("openai", OPENAI, "m")).cost_usd(Usage(1_000_000)) == 2
    assert found(prices.price("openai", OPENAI, "n")).cost_usd(Usage(1_000_000)) == 3


def test_no_file_is_no_error(tmp_path: Path) -> None:
    assert load_price_list(tmp_path / "nowhere", {"HOME": str(tmp_path)}) == PriceList()
    assert load_price_list(None, {}) == PriceList()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_CONFIG_HOME": "/c", "HOME": "/h"}, "/c/asyncgen"),
        ({"XDG_CONFIG_HOME": "relative", "HOME": "/h"}, "/h/.config/asyncgen"),
        ({"HOME": "/h"}, "/h/.config/asyncgen"),
        ({}, "None"),
    ],
)
def test_the_configuration_folder_follows_the_xdg_rules(environ: dict[str, str], expected: str) -> None:
    assert str(configuration_folder(environ)) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[openai", "not TOML"),
        ("[openai.m]\ninput = 1", "openai.m"),
        ("[openai.m]\ninput = 1\noutput = -1", "openai.m"),
        ("[openai.m]\ninput = nan\noutput = 1", "openai.m"),
        ("[openai.m]\ninput = 1\noutput = 1\nbatch = { input = -1, output = 1 }", "openai.m.batch"),
        ("[openai.m]\ntraining = -1", "openai.m"),
        ("[openai.m]\ninput = 'cheap'\noutput = 1", "input"),
        ("[openai.m]\ninptu = 1", "openai.m"),
        ("date = 'today'", "date"),
        ("openai = 3", "openai"),
        ("\x00", "not TOML"),
    ],
)
def test_a_price_file_with_a_mistake_is_refused_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_price_list(write(tmp_path, text), {})
    assert str(tmp_path) in caught.value.what
    assert told in f"{caught.value.what} {caught.value.cause}"


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="UTF-16"):
        load_price_list(tmp_path, {})


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").mkdir()
    with pytest.raises(UsageError, match="a directory"):
        load_price_list(tmp_path, {})


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    text = "[openai.mine]\ninput = 1.0\noutput = 2.0\n"
    (tmp_path / "prices.toml").write_text(text, encoding="utf-8-sig")
    assert load_price_list(tmp_path, {}).price("openai", None, "mine") is not None


@pytest.mark.parametrize(
    ("provider", "model", "day"),
    [
        ("openai", "gpt-4.1-mini-2025-04-14", date(2027, 1, 14)),
        ("openai", "ft:gpt-4.1-mini-2025-04-14:o::i", date(2027, 1, 14)),
        ("openai", "gpt-3.5-turbo-0125", date(2026, 10, 23)),
        ("openai", "gpt-4o-2024-05-13", date(2026, 10, 23)),
        ("openai", "gpt-4o-2024-08-06", date(2027, 1, 14)),
        ("openai", "gpt-6-luna", None),
        ("nebius", "gpt-4.1", None),
    ],
)
def test_announced_shutdowns_are_known(provider: str, model: str, day: date | None) -> None:
    assert shutdown_date(provider, model) == day


def test_the_price_library_is_imported_by_who_needs_a_published_price_only() -> None:
    program = (
        "import sys; from asyncgen.providers.prices import PriceList; p = PriceList();"
        "p.price('local', None, 'm'); p.price('openai', 'http://127.0.0.1:1/v1', 'm');"
        "assert 'genai_prices' not in sys.modules; p.price('openai', None, 'm');"
        "assert 'genai_prices' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_endpoint_costs_by_the_hour_as_many_gpus_as_hold_the_model() -> None:
    small = hosting_price("together", "meta-llama/Meta-Llama-3.1-8B-Instruct-Reference")
    large = hosting_price("together", "meta-llama/Llama-3.3-70B-Instruct-Reference")
    assert small is not None
    assert large is not None
    assert small.hardware.startswith("1x ")
    assert large.hardware.startswith("4x ")
    assert large.usd_per_hour == 4 * small.usd_per_hour
    assert hosting_price("together", "a-model-of-unknown-size") is None
    assert hosting_price("nebius", "meta-llama/Llama-3.3-70B-Instruct") is None


@pytest.mark.parametrize("provider", ["together", "fireworks"])
def test_where_endpoints_cost_by_the_hour_they_and_the_training_have_prices_with_a_day(provider: str) -> None:
    finetuning = PROFILES[provider].finetuning
    assert finetuning is not None
    assert finetuning.default_model is not None
    training, hosting = (
        tuned_model(provider, finetuning.default_model),
        hosting_price(provider, finetuning.default_model),
    )
    larger = tuned_model(provider, "a-model-of-70b")
    assert training is not None
    assert hosting is not None
    assert larger is not None
    assert training.rates is None, "calls cost by the hour"
    assert training.note
    assert training.as_of
    assert larger.low > training.low
