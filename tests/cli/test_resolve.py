from pathlib import Path

import pytest

from asyncgen.cli.resolve import (
    Where,
    addressed_endpoint,
    choose_answering,
    choose_generation,
    choose_tuning,
    model_name,
)
from asyncgen.errors import AuthError, UsageError
from asyncgen.job.load import JobFile, read_job_file
from asyncgen.providers import PROFILES, Choice

OPENAI_KEY = {"OPENAI_API_KEY": "sk-0123456789abcdef"}
OPENAI = Choice(PROFILES["openai"], "test")


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for profile in PROFILES.values():
        for variable in (profile.key_variable, profile.base_url_variable):
            if variable:
                monkeypatch.delenv(variable, raising=False)


def job(tmp_path: Path, extra: str = "") -> JobFile:
    path = tmp_path / "job.toml"
    path.write_text(f'name = "x"\n[grid]\na = ["b"]\n[prompt]\nuser = "{{a}}"\n{extra}', encoding="utf-8")
    return read_job_file(path)


def test_without_a_key_the_local_server_answers_and_tunes(tmp_path: Path) -> None:
    generation = choose_generation(job(tmp_path), Where(), {})
    assert generation.profile.name == "local"
    assert choose_tuning(job(tmp_path), generation, None).profile.name == "local"


def test_the_provider_whose_key_is_set_answers(tmp_path: Path) -> None:
    assert choose_generation(job(tmp_path), Where(), OPENAI_KEY).profile.name == "openai"


def test_a_flag_goes_before_the_job_file_and_that_before_the_environment(tmp_path: Path) -> None:
    file = job(tmp_path, '[generate]\nprovider = "local"\n')
    assert choose_generation(file, Where(), OPENAI_KEY).profile.name == "local"
    assert choose_generation(file, Where(provider="openai"), {}).profile.name == "openai"


def test_an_address_alone_names_the_openai_profile(tmp_path: Path) -> None:
    assert choose_generation(job(tmp_path), Where(base_url="http://127.0.0.1:1/v1"), {}).profile.name == "openai"
    assert choose_answering(Where(base_url="http://127.0.0.1:1/v1"), {}).profile.name == "openai"


def test_openai_answers_but_this_machine_tunes(tmp_path: Path) -> None:
    assert choose_tuning(job(tmp_path), OPENAI, None).profile.name == "local"
    assert choose_tuning(job(tmp_path), OPENAI, "openai").profile.name == "openai"
    file = job(tmp_path, '[finetune]\nprovider = "openai"\n')
    assert choose_tuning(file, OPENAI, None).profile.name == "openai"


def test_an_unknown_provider_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'openai'"):
        choose_answering(Where(provider="opnai"), {})


def test_a_loopback_address_needs_no_key() -> None:
    for url in ("http://127.0.0.1:1/v1/", "http://[::1]:1/v1", "http://localhost:1/v1"):
        endpoint = addressed_endpoint(OPENAI, Where(base_url=url), "m")
        assert endpoint.key is None
        assert endpoint.base_url == url.rstrip("/")


def test_a_key_that_is_missing_names_its_variable() -> None:
    with pytest.raises(AuthError, match="OPENAI_API_KEY is not set") as caught:
        addressed_endpoint(OPENAI, Where(), "m")
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
        addressed_endpoint(OPENAI, Where(base_url=url), "m")


def test_a_key_file_goes_before_the_variable_and_open_ones_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    path = tmp_path / "key"
    path.write_text("sk-from-the-file\n", encoding="utf-8")
    path.chmod(0o644)
    endpoint = addressed_endpoint(OPENAI, Where(api_key_file=path), "m")
    assert endpoint.key is not None
    assert endpoint.key.reveal() == "sk-from-the-file"
    assert "chmod 600" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"two words", b"two\nlines", b"\xff"])
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(AuthError):
        addressed_endpoint(OPENAI, Where(api_key_file=path), "m")


def test_the_model_named_goes_before_the_default() -> None:
    assert model_name(PROFILES["openai"], "mine") == "mine"
    assert model_name(PROFILES["openai"], None) == PROFILES["openai"].default_model


def test_a_key_shows_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789abcdef")
    endpoint = addressed_endpoint(OPENAI, Where(), "m")
    assert "0123456789" not in repr(endpoint) + str(endpoint)


def test_the_users_own_local_model_is_asked_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCGEN_MODEL_PATH", "/models/Qwen2.5-0.5B-Instruct.Q4_K_M.gguf")
    assert model_name(PROFILES["local"], None) == "qwen2.5-0.5b-instruct"
    assert model_name(PROFILES["local"], "mine") == "mine"
    assert model_name(PROFILES["openai"], None) == PROFILES["openai"].default_model
