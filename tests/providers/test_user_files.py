"""asyncgen.providers.user_files: the user's own providers, and what a file may not say."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncgen.errors import UsageError
from asyncgen.job.load import read_job_file
from asyncgen.providers.choose import AUTO, EndpointFlags, addressed_endpoint, choose_generation, choose_tuning
from asyncgen.providers.profiles import PROFILES
from asyncgen.providers.user_files import PROVIDERS_NAME, load_price_list, load_profiles

if TYPE_CHECKING:
    from pathlib import Path

BOX = """
[gpu-box]
base_url = "http://vllm.internal:8000/v1/chat/completions"
key_variable = "VLLM_KEY"
allow_http = true
max_tokens_name = "max_completion_tokens"
headers = { x-team = "data" }
[gpu-box.price]
input = 0.1
output = 0.4
"""


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROVIDERS_NAME).write_text(text, encoding="utf-8")
    return folder


def wrong(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_profiles(write(folder, text), {})
    assert PROVIDERS_NAME in caught.value.what
    return caught.value.cause or ""


def test_a_provider_of_ones_own_is_asked_as_a_known_one(tmp_path: Path) -> None:
    profiles = load_profiles(write(tmp_path, BOX), {})
    choice = choose_generation(EndpointFlags(provider="gpu-box"), AUTO, {}, profiles)
    endpoint = addressed_endpoint(choice, EndpointFlags(), "m", {"VLLM_KEY": "k-0123456789"})
    assert endpoint.base_url == "http://vllm.internal:8000/v1"
    assert endpoint.key is not None
    assert endpoint.key.source == "VLLM_KEY"
    assert endpoint.headers == {"x-team": "data"}
    assert choice.profile.max_tokens_name == "max_completion_tokens"
    assert choose_tuning(choice, profiles=profiles).profile.name == "local"


def test_it_is_chosen_by_name_or_address_and_never_by_its_key(tmp_path: Path) -> None:
    profiles = load_profiles(write(tmp_path, BOX), {})
    assert choose_generation(EndpointFlags(), AUTO, {"VLLM_KEY": "k"}, profiles).profile.name == "local"
    where = EndpointFlags(base_url="http://vllm.internal:8000/v1")
    assert choose_generation(where, AUTO, {}, profiles).profile.name == "gpu-box"


def test_its_price_holds_for_every_model_and_one_in_prices_toml_before_it(tmp_path: Path) -> None:
    write(tmp_path, BOX)
    (tmp_path / "prices.toml").write_text("[gpu-box.big]\ninput = 1\noutput = 2\n", encoding="utf-8")
    prices = load_price_list(tmp_path, {})
    price = prices.price("gpu-box", "http://vllm.internal:8000/v1", "any")
    assert price is not None
    assert (price.rates().input, price.rates().cached, price.rates().output) == (0.1, 0.1, 0.4)
    assert price.source.endswith(PROVIDERS_NAME)
    big = prices.price("gpu-box", "http://vllm.internal:8000/v1", "big")
    assert big is not None
    assert big.rates().input == 1


def test_the_file_beside_the_job_goes_before_the_configuration_folders(tmp_path: Path) -> None:
    write(tmp_path / "xdg" / "asyncgen", '[a]\nbase_url = "http://127.0.0.1:1/v1"\n[b]\nbase_url = "https://b/v1"\n')
    job = write(tmp_path / "job", '[a]\nbase_urls = ["http://127.0.0.1:2/v1", "http://127.0.0.1:3/v1"]\n')
    profiles = load_profiles(job, {"XDG_CONFIG_HOME": str(tmp_path / "xdg")})
    assert profiles["a"].addresses == ("http://127.0.0.1:2/v1", "http://127.0.0.1:3/v1")
    assert profiles["b"].addresses == ("https://b/v1",)


def test_a_job_file_may_name_it_and_lay_tables_over_for_it(tmp_path: Path) -> None:
    write(tmp_path, BOX)
    path = tmp_path / "job.toml"
    path.write_text(
        'name = "x"\n[grid]\na = ["b"]\n[prompt]\nuser = "{a}"\n[generate]\nprovider = "gpu-box"\n'
        "[on.gpu-box.generate.parameters]\ntemperature = 0.5\n",
        encoding="utf-8",
    )
    file = read_job_file(path)
    assert file.profiles["gpu-box"].base_url == "http://vllm.internal:8000/v1"
    assert file.job("gpu-box", "local").generate.parameters == {"temperature": 0.5}


def test_fields_of_a_known_provider_can_be_changed(tmp_path: Path) -> None:
    profiles = load_profiles(write(tmp_path, '[vllm]\nbase_url = "http://10.0.0.5:8000/v1"\nallow_http = true\n'), {})
    assert profiles["vllm"].base_url == "http://10.0.0.5:8000/v1"
    assert profiles["vllm"].title == PROFILES["vllm"].title
    assert load_profiles(write(tmp_path, "[openai]\nconcurrency = 8\n"), {})["openai"].concurrency == 8


def test_everything_wrong_is_told_at_once_with_line_and_key(tmp_path: Path) -> None:
    cause = wrong(
        tmp_path,
        '[box]\nbase_urll = "https://b/v1"\nallow_http = 1\nheaders = { Authorization = "x" }\n'
        "[box.price]\ninput = -1\n[Bad]\n[x]\nnotes = 'n'\n",
    )
    lines = cause.splitlines()
    assert [line.partition(f"{PROVIDERS_NAME}:")[2].split(":")[0] for line in lines] == ["2", "3", "4", "6", "7", "8"]
    assert "did you mean 'base_url'" in lines[0]
    assert "box.headers" in lines[2]
    assert "base_url is missing" in lines[5]


@pytest.mark.parametrize(
    "text",
    [
        '[gateway]\nbase_url = "https://evil.example/v1"\nkey_variable = "OPENAI_API_KEY"\n',
        '[openai]\nbase_url = "https://evil.example/v1"\n',
        '[openai]\nbase_urls = ["https://api.openai.com/v1", "https://evil.example/v1"]\n',
        '[vllm]\nkey_variable = "OPENAI_API_KEY"\n',
        '[mine]\nbase_url = "https://evil.example/v1"\nkey_variable = "ASYNCGEN_API_KEY"\n',
    ],
)
def test_a_file_sends_no_providers_key_to_another_host(tmp_path: Path, text: str) -> None:
    assert "belongs to" in wrong(tmp_path, text)


@pytest.mark.parametrize("line", ['api_key = "sk-canary-31415926"', 'key_variable = "sk-canary-31415926"'])
def test_a_key_in_the_file_is_refused_and_not_shown(tmp_path: Path, line: str) -> None:
    cause = wrong(tmp_path, f'[box]\nbase_url = "https://b/v1"\n{line}\n')
    assert "do not belong in this file" in cause
    assert "31415" not in cause


@pytest.mark.parametrize("text", ["[box\n", "a = 1\n", "box = 3\n", "[auto]\n", "[local]\nbase_url = 'https://b/v1'\n"])
def test_what_is_no_table_of_providers_is_a_usage_error(tmp_path: Path, text: str) -> None:
    assert f"{PROVIDERS_NAME}:1" in wrong(tmp_path, text)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, "") / PROVIDERS_NAME
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with suppress(UsageError):
        assert set(PROFILES) <= set(load_profiles(tmp_path, {}))


def test_the_named_only_profiles_do_not_move_the_automatic_choice() -> None:
    keys = {profile.key_variable: "k" for profile in PROFILES.values() if profile.by_name_only and profile.key_variable}
    assert choose_generation(EndpointFlags(), AUTO, keys, PROFILES).profile.name == "local"
    assert {"openrouter", "groq", "mistral", "ollama", "vllm", "litellm"} <= {
        profile.name for profile in PROFILES.values() if profile.by_name_only
    }
    assert all(profile.default_model is None for profile in PROFILES.values() if profile.by_name_only)
