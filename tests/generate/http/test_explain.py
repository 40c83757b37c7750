"""asyncgen.generate.http.completer: what is said of addresses and keys."""

from __future__ import annotations

import pytest

from asyncgen.errors import AsyncgenError
from asyncgen.generate.http.completer import AttemptError, ErrorClass, StopReason, provider_error
from asyncgen.providers.endpoint import Endpoint
from asyncgen.providers.profiles import PROFILES


def as_disk_error(message: str, *, base_url: str = "http://127.0.0.1:1/v1", code: str | None = None) -> AsyncgenError:
    error = AttemptError(kind=ErrorClass.STOP, type="not_found", status=404, message=message, code=code)
    endpoint = Endpoint(PROFILES["custom"], base_url, None, "my-alias", "test")
    return provider_error(error, StopReason.AUTH, endpoint)


@pytest.mark.parametrize("message", ["a web page", "Not Found", "Invalid URL (POST /llm/chat/completions)", ""])
def test_a_path_that_a_server_does_not_have_is_not_blamed_on_the_model(message: str) -> None:
    error = as_disk_error(message)
    assert (error.code, error.exit_code) == ("address", 4)
    assert "my-alias" not in error.what
    assert "did you mean --base-url http://127.0.0.1:1/llm/v1?" in str(
        as_disk_error(message, base_url="http://127.0.0.1:1/llm").help_text
    )


@pytest.mark.parametrize(
    ("message", "code"),
    [("The model `my-alias` does not exist.", "404"), ("no such", "model_not_found"), ("", "DeploymentNotFound")],
)
def test_a_model_that_a_server_does_not_have_is_named(message: str, code: str) -> None:
    error = as_disk_error(message, code=code)
    assert error.code == "model"
    assert "my-alias" in error.what
    assert "404, 404" not in error.what


@pytest.mark.parametrize(
    ("message", "is_named"),
    [("You passed in model=my-alias. There are no healthy deployments", True), ("no my-aliases here", False)],
)
def test_a_refusal_that_names_the_model_has_a_remedy_for_it(message: str, is_named: bool) -> None:
    error = AttemptError(kind=ErrorClass.ROW, type="bad_request", status=400, message=message)
    help_text = str(
        provider_error(
            error, None, Endpoint(PROFILES["custom"], "http://127.0.0.1:1/v1", None, "my-alias", "test")
        ).help_text
    )
    assert ("--model" in help_text, "[prompt]" in help_text) == (is_named, True)


def test_a_refused_prompt_is_looked_for_in_the_prompt() -> None:
    error = AttemptError(kind=ErrorClass.ROW, type="content_filter", status=400, message="x", param="prompt")
    assert "[prompt]" in str(provider_error(error, None).help_text)
    error = AttemptError(kind=ErrorClass.ROW, type="bad_request", status=400, message="x", param="top_p")
    assert "top_p under [generate.parameters]" in str(provider_error(error, None).help_text)
