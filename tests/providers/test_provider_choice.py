from pathlib import Path

import pytest

from asyncgen.errors import AuthError, UsageError
from asyncgen.providers.choose import (
    AUTO,
    EndpointFlags,
    addressed_endpoint,
    choose_generation,
    choose_tuner,
    choose_tuning,
)
from asyncgen.providers.profiles import PROFILES, ProviderChoice

OPENAI_KEY = {"OPENAI_API_KEY": "sk-0123456789abcdef"}
OPENAI = ProviderChoice(PROFILES["openai"], "test")


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for profile in PROFILES.values():
        for variable in (profile.key_variable, profile.base_url_variable):
            if variable:
                monkeypatch.delenv(variable, raising=False)


def test_without_a_key_the_local_server_answers_and_tunes() -> None:
    generation = choose_generation(EndpointFlags(), AUTO, {})
    assert generation.profile.name == "local"
    assert choose_tuning(generation).profile.name == "local"


def test_the_provider_whose_key_is_set_answers() -> None:
    assert choose_generation(EndpointFlags(), AUTO, OPENAI_KEY).profile.name == "openai"


def test_a_flag_goes_before_the_job_file_and_that_before_the_environment() -> None:
    assert choose_generation(EndpointFlags(), "local", OPENAI_KEY).profile.name == "local"
    assert choose_generation(EndpointFlags(provider="openai"), "local", {}).profile.name == "openai"


@pytest.mark.parametrize("named_in_job", [AUTO, "openai", "nebius", "custom"])
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/v1",
        "https://gateway.example/v1",
        "https://api.openai.com.evil.example/v1",
        "https://api.openai.com@evil.example/v1",
        "https://api.openai.com:8443/v1",
        "https://evil.example/api.openai.com/v1",
        "https://[::1/v1",
    ],
)
def test_an_address_alone_means_custom_whatever_keys_there_are(url: str, named_in_job: str) -> None:
    choice = choose_generation(EndpointFlags(base_url=url), named_in_job, OPENAI_KEY)
    assert choice.profile.name == "custom"
    assert choice.profile.key_variable == "ASYNCGEN_API_KEY"
    is_another = named_in_job not in {AUTO, "custom"}
    assert (f"--provider {named_in_job} uses" in choice.why) is is_another


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://API.OpenAI.com:443/v1/", "openai"),
        (" https://api.openai.com./v1", "openai"),
        ("https://api.together.ai/v1", "together"),
        ("https://mine.openai.azure.com/openai/v1", "azure"),
    ],
)
def test_an_address_of_a_known_provider_means_that_provider(url: str, name: str) -> None:
    environment = {"AZURE_OPENAI_ENDPOINT": "https://mine.openai.azure.com"}
    assert choose_generation(EndpointFlags(base_url=url), AUTO, environment).profile.name == name


def test_a_provider_of_the_job_file_that_has_no_address_of_its_own_is_asked_at_the_flags() -> None:
    where = EndpointFlags(base_url="https://mine.example/openai/v1")
    assert choose_generation(where, "azure", {}).profile.name == "azure"


def test_no_key_goes_to_an_address_that_was_named_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789abcdef")
    where = EndpointFlags(base_url="https://gateway.example/v1")
    assert addressed_endpoint(choose_generation(where), where, "m").key is None
    monkeypatch.setenv("ASYNCGEN_API_KEY", "sk-mine-0123456789")
    endpoint = addressed_endpoint(choose_generation(where), where, "m")
    assert endpoint.key is not None
    assert endpoint.key.source == "ASYNCGEN_API_KEY"


def test_openai_answers_but_this_machine_tunes() -> None:
    assert choose_tuning(OPENAI).profile.name == "local"
    assert choose_tuning(OPENAI, "openai").profile.name == "openai"
    assert choose_tuning(OPENAI, None, "openai").profile.name == "openai"


def test_who_answers_tunes_too_where_it_does_for_new_customers() -> None:
    assert choose_tuning(ProviderChoice(PROFILES["nebius"], "test")).profile.name == "nebius"
    where = EndpointFlags(base_url="http://127.0.0.1:1/v1")
    assert choose_tuning(choose_generation(where)).profile.name == "custom"


def test_the_tuner_is_who_has_a_key_in_the_order_of_the_profiles() -> None:
    assert choose_tuner(EndpointFlags(), {"OPENAI_API_KEY": "sk-x", "NEBIUS_API_KEY": "k"}).profile.name == "openai"
    with pytest.raises(UsageError):
        choose_tuner(EndpointFlags(provider="nobody"), OPENAI_KEY)


def test_an_unknown_provider_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'openai'"):
        choose_generation(EndpointFlags(provider="opnai"), AUTO, {})


def test_a_loopback_address_needs_no_key() -> None:
    for url in ("http://127.0.0.1:1/v1/", "http://[::1]:1/v1", "http://localhost:1/v1"):
        endpoint = addressed_endpoint(OPENAI, EndpointFlags(base_url=url), "m")
        assert endpoint.key is None
        assert endpoint.base_url == url.rstrip("/")


def test_a_key_that_is_missing_names_its_variable() -> None:
    with pytest.raises(AuthError, match="OPENAI_API_KEY is not set") as caught:
        addressed_endpoint(OPENAI, EndpointFlags(), "m")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com/v1",
        "http://127.0.0.1.evil.example/v1",
        "http://2130706433/v1",
        "http://user:pw@127.0.0.1/v1",
        "https://api.example.com/v1?key=1",
        "api.example.com/v1",
        "ftp://127.0.0.1/v1",
    ],
)
def test_an_address_that_would_leak_the_key_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789abcdef")
    with pytest.raises(UsageError):
        addressed_endpoint(OPENAI, EndpointFlags(base_url=url), "m")


def test_a_key_file_goes_before_the_variable_and_open_ones_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    path = tmp_path / "key"
    path.write_text("sk-from-the-file\n", encoding="utf-8")
    path.chmod(0o644)
    endpoint = addressed_endpoint(OPENAI, EndpointFlags(api_key_file=path), "m")
    assert endpoint.key is not None
    assert endpoint.key.reveal() == "sk-from-the-file"
    assert ["chmod 600" in remark for remark in endpoint.remarks] == [True]


@pytest.mark.parametrize("content", [b"", b"two words", b"two\nlines", b"\xff"])
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(AuthError):
        addressed_endpoint(OPENAI, EndpointFlags(api_key_file=path), "m")


def test_a_key_shows_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789abcdef")
    endpoint = addressed_endpoint(OPENAI, EndpointFlags(), "m")
    assert "0123456789" not in repr(endpoint) + str(endpoint)
