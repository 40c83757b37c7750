"""What is said at the end of a job."""

import pytest

from asyncgen.finetune.api import TuningJob
from asyncgen.finetune.session import success_text
from asyncgen.providers.profiles import PROFILES


def test_a_model_that_needs_an_endpoint_says_what_it_costs_by_the_hour() -> None:
    job = TuningJob(id="ft-1", status="completed", outcome="succeeded", model="Qwen/Qwen3.5-9B", tuned_model="me/mine")
    said = success_text(PROFILES["together"], job)
    assert "me/mine" in said
    assert "3.99 USD an hour, with or without calls" in said


@pytest.mark.parametrize(
    ("name", "gives"), [("together", True), ("fireworks", True), ("nebius", True), ("azure", False)]
)
def test_who_gives_weights_says_the_command_that_takes_them(name: str, gives: bool) -> None:
    job = TuningJob(id="ft-1", status="completed", outcome="succeeded", tuned_model="mine")
    command = f"asyncgen finetune download ft-1 --provider {name}"
    assert (command in success_text(PROFILES[name], job)) is gives


def test_fireworks_says_the_command_that_deploys() -> None:
    job = TuningJob(id="accounts/me/supervisedFineTuningJobs/a", status="completed", outcome="succeeded",
                    tuned_model="accounts/me/models/a")  # fmt: skip
    assert "firectl deployment create accounts/me/models/a" in success_text(PROFILES["fireworks"], job)
