import pytest

from asyncgen.providers.choose import requested_model
from asyncgen.providers.profiles import PROFILES


def test_the_model_named_goes_before_the_default() -> None:
    assert requested_model(PROFILES["openai"], "mine") == "mine"
    assert requested_model(PROFILES["openai"], None) == PROFILES["openai"].default_model


def test_the_users_own_local_model_is_asked_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCGEN_MODEL_PATH", "/models/Qwen2.5-0.5B-Instruct.Q4_K_M.gguf")
    assert requested_model(PROFILES["local"], None) == "qwen2.5-0.5b-instruct"
    assert requested_model(PROFILES["local"], "mine") == "mine"
    assert requested_model(PROFILES["openai"], None) == PROFILES["openai"].default_model
