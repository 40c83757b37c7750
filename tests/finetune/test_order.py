"""asyncgen.finetune.api and openai_request: what a provider would refuse, and what is sent."""

from __future__ import annotations

from typing import Any

import pytest

from asyncgen.errors import UsageError
from asyncgen.finetune.api import JobOrder, check_order, fingerprint, with_defaults
from asyncgen.finetune.openai_shape import job_request
from asyncgen.finetune.together import job_request as together_request
from asyncgen.providers.profiles import PROFILES, Finetuning


def finetuning(name: str) -> Finetuning:
    found = PROFILES[name].finetuning
    assert found is not None
    return found


def order(**fields: Any) -> JobOrder:
    return JobOrder(**{"model": "base", "training_file": "file-1", **fields})


def test_every_problem_of_an_order_is_reported_at_once() -> None:
    wrong = order(
        method="reinforcement",
        suffix="x" * 65,
        seed=-1,
        hyperparameters={"epochs": 3},
        metadata={"k" * 65: "v"},
        integrations=[{"type": "wandb"}],
    )
    with pytest.raises(UsageError) as caught:
        check_order(wrong, PROFILES["openai"])
    assert caught.value.cause is not None
    assert [line.partition(":")[0] for line in caught.value.cause.splitlines()] == [
        "method",
        "suffix",
        "seed",
        "hyperparameters.epochs",
        "metadata." + "k" * 65,
        "integrations[0]",
    ]
    assert "did you mean 'n_epochs'?" in caught.value.cause
    assert caught.value.exit_code == 2


def test_an_order_within_the_rules_passes_everywhere() -> None:
    for profile in PROFILES.values():
        if profile.finetuning is not None:
            check_order(with_defaults(order(suffix="adverts", seed=7), profile.finetuning), profile)


def test_a_suffix_with_a_dot_is_refused_where_dots_are() -> None:
    check_order(order(suffix="v1.2"), PROFILES["openai"])
    with pytest.raises(UsageError, match="would refuse"):
        check_order(order(suffix="v1.2"), PROFILES["azure"])


def test_metadata_is_refused_where_none_is_kept() -> None:
    with pytest.raises(UsageError) as caught:
        check_order(order(metadata={"a": "b"}), PROFILES["together"])
    assert caught.value.cause == "metadata: this provider does not store metadata"


def test_sixteen_pairs_are_one_too_many_since_ours_is_added() -> None:
    check_order(order(metadata={str(number): "" for number in range(15)}), PROFILES["openai"])
    with pytest.raises(UsageError):
        check_order(order(metadata={str(number): "" for number in range(16)}), PROFILES["openai"])


def test_hyperparameters_stand_under_the_method_at_openai() -> None:
    body = job_request(order(hyperparameters={"n_epochs": 4}, seed=7), finetuning("openai"))
    assert body == {
        "model": "base",
        "training_file": "file-1",
        "seed": 7,
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 4}}},
    }


def test_a_preference_job_carries_its_beta_under_dpo() -> None:
    body = job_request(order(method="dpo", hyperparameters={"beta": 0.1}), finetuning("openai"))
    assert body["method"] == {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1}}}


def test_nebius_gets_hyperparameters_at_the_top_no_method_and_lora() -> None:
    chosen = with_defaults(order(hyperparameters={"n_epochs": 2}), finetuning("nebius"))
    body = job_request(chosen, finetuning("nebius"))
    assert body["hyperparameters"] == {"lora": True, "n_epochs": 2}
    assert "method" not in body


def test_a_provider_s_default_hyperparameter_gives_way_to_the_job_s() -> None:
    assert with_defaults(order(hyperparameters={"lora": False}), finetuning("nebius")).hyperparameters == {
        "lora": False
    }


def test_azure_gets_its_training_type_from_the_profile_or_from_the_job() -> None:
    assert job_request(order(), finetuning("azure"))["trainingType"] == "GlobalStandard"
    body = job_request(order(hyperparameters={"trainingType": "developerTier", "n_epochs": 1}), finetuning("azure"))
    assert body["trainingType"] == "developerTier"
    assert body["method"]["supervised"]["hyperparameters"] == {"n_epochs": 1}


def test_metadata_is_not_sent_where_it_is_not_kept() -> None:
    assert "metadata" not in job_request(order(metadata={"a": "b"}), finetuning("crusoe"))
    assert job_request(order(metadata={"a": "b"}), finetuning("openai"))["metadata"] == {"a": "b"}


def test_together_gets_a_flat_body_with_a_training_method() -> None:
    wandb = [{"type": "wandb", "wandb": {"project": "adverts", "name": "first"}}]
    body = together_request(
        order(suffix="s", seed=7, hyperparameters={"n_epochs": 3, "train_on_inputs": False}, integrations=wandb),
        "wandb-key",
    )
    assert body == {
        "model": "base",
        "training_file": "file-1",
        "suffix": "s",
        "random_seed": 7,
        "training_method": {"method": "sft", "train_on_inputs": False},
        "n_epochs": 3,
        "wandb_project_name": "adverts",
        "wandb_name": "first",
        "wandb_api_key": "wandb-key",
    }


def test_together_gets_beta_with_the_method() -> None:
    body = together_request(order(method="dpo", hyperparameters={"beta": 0.2}), None)
    assert body["training_method"] == {"method": "dpo", "dpo_beta": 0.2}
    assert "beta" not in body


def test_a_fingerprint_depends_on_content_and_not_on_file_ids() -> None:
    first = fingerprint(order(training_file="file-1"), "abc")
    assert fingerprint(order(training_file="file-2"), "abc") == first
    assert fingerprint(order(), "abd") != first
    assert fingerprint(order(suffix="x"), "abc") != first
    assert fingerprint(order(hyperparameters={"a": 1, "b": 2}), "x") == fingerprint(
        order(hyperparameters={"b": 2, "a": 1}), "x"
    )
