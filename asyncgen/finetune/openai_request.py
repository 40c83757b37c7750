"""The body of a request for a fine-tuning job in OpenAI's form, as each provider of that form wants it.

Owns where things stand in the body. Pure; does not send it.
"""

from __future__ import annotations

from typing import Any

from asyncgen.finetune.order import JobOrder
from asyncgen.providers import Finetuning


def job_request(order: JobOrder, finetuning: Finetuning) -> dict[str, Any]:
    """The JSON to POST to `/fine_tuning/jobs`; what the order leaves open is left out."""
    hyperparameters = {key: value for key, value in order.hyperparameters.items() if key not in finetuning.fields}
    fields = {key: order.hyperparameters.get(key, value) for key, value in finetuning.fields.items()}
    body = {
        "model": order.model,
        "training_file": order.training_file,
        "validation_file": order.validation_file,
        "suffix": order.suffix,
        "seed": order.seed,
        "metadata": order.metadata if finetuning.metadata else None,
        "integrations": order.integrations or None,
        **_method(order.method, hyperparameters, finetuning),
        **fields,
    }
    return {key: value for key, value in body.items() if value not in (None, {})}


def _method(method: str, hyperparameters: dict[str, Any], finetuning: Finetuning) -> dict[str, Any]:
    if finetuning.hyperparameters_in == "top":
        return {"hyperparameters": hyperparameters}
    part = {"hyperparameters": hyperparameters} if hyperparameters else {}
    return {"method": {"type": method, method: part} if part else {"type": method}}
