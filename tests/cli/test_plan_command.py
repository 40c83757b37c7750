"""`asyncgen plan`, as it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from asyncgen.cli.main import main
from asyncgen.cli.plan_command import clock, usd_span
from asyncgen.generate.plan.request_tokens import Span
from asyncgen.terminal import usd

PRICES = '[openai."gpt-6-luna"]\ninput = 1000\noutput = 1000\n'


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ASYNCGEN_PROVIDER", "ASYNCGEN_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def plan(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["plan", *arguments])
    shown = capsys.readouterr()
    assert ended.value.code == code, shown.err
    return shown.out if code == 0 else shown.err


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    answer: dict[str, Any] = orjson.loads(plan(capsys, *arguments, "--json").splitlines()[-1])
    return answer


def test_the_built_in_job_without_a_key_is_free(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    shown = plan(capsys)
    assert "162 requests to smollm2-135m-instruct at local" in shown
    assert "free: it runs on this machine" in shown
    assert "small Grocery Stores in Brussels" in shown
    assert not (place / "runs").exists(), "a plan writes nothing"


def test_a_named_provider_needs_no_key_to_be_planned(capsys: pytest.CaptureFixture[str]) -> None:
    shown = plan(capsys, "--provider", "openai", "--break-even")
    assert "batch" in shown
    assert "genai-prices" in shown
    assert "break-even, against" in shown
    assert "assumed:" in shown


def test_json_is_one_object_on_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    answer = as_json(capsys, "--provider", "openai")
    assert (answer["requests"], answer["left"], answer["provider"]) == (162, 162, "openai")
    assert "break_even" not in answer


def test_the_users_prices_are_used(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    before = as_json(capsys, "--provider", "openai")
    (place / "config" / "asyncgen").mkdir(parents=True)
    (place / "config" / "asyncgen" / "prices.toml").write_text(PRICES, encoding="utf-8")
    after = as_json(capsys, "--provider", "openai")
    assert after["cost_usd"]["standard"]["low"] > 100 * before["cost_usd"]["standard"]["low"]
    assert after["cost_usd"]["batch"] is None, "their file names no price for batches"
    assert after["prices"]["source"].endswith("prices.toml")


def test_a_wrong_price_file_ends_with_the_usage_code(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    (place / "config" / "asyncgen").mkdir(parents=True)
    (place / "config" / "asyncgen" / "prices.toml").write_text("[openai.x]\ninput = -1\noutput = 1", encoding="utf-8")
    assert "openai.x" in plan(capsys, "--provider", "openai", code=2)


def test_another_address_has_tokens_and_no_price(capsys: pytest.CaptureFixture[str]) -> None:
    assert "cost       unknown" in plan(capsys, "--base-url", "http://127.0.0.1:9/v1", "--model", "m")


def test_flags_narrow_the_limits(capsys: pytest.CaptureFixture[str]) -> None:
    answer = as_json(capsys, "--provider", "openai", "--rpm", "60")
    assert answer["seconds"] == {"at_least": 162.0, "bound_by": "60 requests per minute"}


def test_a_model_that_ends_soon_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    shown = plan(capsys, "--provider", "openai", "--model", "gpt-5.4-nano")
    assert "gpt-5.4-nano will be shut down on 2027-04-01" in shown


@pytest.mark.parametrize(
    ("amount", "shown"),
    [(0, "0 USD"), (1234.5, "1,234.50 USD"), (0.5, "0.50 USD"), (0.00123, "0.0012 USD"), (0.0000077, "0.0000077 USD")],
)
def test_amounts_show_two_figures(amount: float, shown: str) -> None:
    assert usd(amount) == shown


def test_a_span_of_equal_amounts_is_one() -> None:
    assert usd_span(Span(0.5, 0.5)) == "0.50 USD"
    assert usd_span(Span(0.5, 2)) == "0.50 to 2.00 USD"
    assert usd_span(None) == "unknown"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (0.2, "1 s"), (59, "59 s"), (61, "1 min 1 s"), (3700, "1 h 1 min"), (90_000, "1 d 1 h")],
)
def test_durations_show_two_units(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_plan_tells_what_may_not_be_meant_and_shortens_long_prompts(
    capsys: pytest.CaptureFixture[str], place: Path
) -> None:
    text = (
        'name = "x"\n[grid]\ncity = ["a", "b"]\nsize = ["s", "l"]\n[subset]\nexclude = [{ city = "a", size = "s" }]\n'
        f'[prompt]\nuser = "{{city}} {"y" * 5000} {{{{ size }}}}"\n'
    )
    (place / "job.toml").write_text(text, encoding="utf-8")
    shown = plan(capsys, "job.toml", "--provider", "local")
    assert "left out by subset.exclude: 1" in shown
    assert "1 row has the same request as another row and shares its answer" in shown
    assert "to send: 2" in shown
    assert "grid.size is used in no prompt: its 2 values give the same requests; write {size}" in shown
    assert "characters ...]" in shown
    assert max(map(len, shown.splitlines())) < 1200
    answer = as_json(capsys, "job.toml", "--provider", "local")
    assert (answer["requests"], answer["twins"], answer["excluded"], answer["left"]) == (3, 1, 1, 2)
    assert len(answer["remarks"]) == 1


def test_an_endpoint_by_the_hour_is_weighed_against_calls_an_hour(
    capsys: pytest.CaptureFixture[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOGETHER_API_KEY", "k")
    shown = plan(capsys, "--provider", "openai", "--break-even")
    line = next(line for line in shown.splitlines() if "together, " in line and "calls an hour" in line)
    assert "with or without calls" in line
    found = as_json(capsys, "--provider", "openai", "--break-even")["break_even"]["compared"]
    together = next(each for each in found if each["provider"] == "together")
    assert together["calls_an_hour"] == -(-together["hosting_usd_per_hour"] // together["long_call_usd"])
