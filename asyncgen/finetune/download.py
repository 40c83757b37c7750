"""Download a tuned model's adapter from the server that trained it, with a card for other programs.

Writes the card's text and the command that serves the adapter elsewhere. Only servers that give out weights have
adapters; asyncgen's own does. HTTP is left to the provider's client, writing files to the caller.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from pathlib import Path


class AdapterCard(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says of an adapter that it gives out.

    Attributes:
        base_model: the model that it is laid over, by its server's name.
        base_path: that model's file on the server's machine.
        bytes: the adapter's size.
    """

    id: str
    base_model: str
    base_path: str
    job: str
    created: int
    bytes: int
    hyperparameters: dict[str, Any] = {}
    training_file: str | None = None
    trained_tokens: int | None = None


def serving_command(card: AdapterCard, adapter: Path) -> str:
    """The command of llama.cpp that answers with the adapter, OpenAI-compatible, on port 8080."""
    return f"llama-server -m {shlex.quote(card.base_path)} --lora {shlex.quote(str(adapter))} --port 8080"


def card_text(card: AdapterCard, adapter: Path) -> str:
    """The README beside the adapter."""
    facts = {
        "tuned model": card.id,
        "base model": f"{card.base_model} ({card.base_path})",
        "fine-tuning job": card.job,
        "training file": card.training_file,
        "trained tokens": card.trained_tokens,
        **card.hyperparameters,
    }
    rows = [f"| {name} | {value} |" for name, value in facts.items() if value is not None]
    return "\n".join([
        f"# {card.id}",
        "",
        "A LoRA adapter in GGUF, made by asyncgen's local trainer. It fits its base model alone.",
        "",
        "| | |",
        "|---|---|",
        *rows,
        "",
        "To serve it with llama.cpp:",
        "",
        f"    {serving_command(card, adapter)}",
        "",
    ])  # fmt: skip
