"""The models that answer: the base model, and the tuned ones on disk.

Resolves a name to its adapter. Loading it is left to the engine.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import msgspec

from asyncgen.serve.stores.files import JsonStore
from asyncgen.serve.wire import ApiError, new_id

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.serve.engine import EngineTraits

TUNED = "ft:"
_NOT_IN_A_SUFFIX = re.compile(r"[^a-z0-9_.-]+")


def tuned_name(base: str, organization: str, suffix: str | None) -> str:
    """A new name in OpenAI's form, `ft:BASE:ORGANISATION:SUFFIX:ID`.

    The suffix is lower-cased, and what cannot stand in a name becomes a dash.
    """
    clean = _NOT_IN_A_SUFFIX.sub("-", (suffix or "").lower()).strip("-")
    return f"{TUNED}{base}:{organization}:{clean}:{new_id('', 8)}"


def checkpoint_name(tuned: str, step: int) -> str:
    """The name of the model as it was after a step."""
    return f"{tuned}:ckpt-step-{step}"


class ModelObject(msgspec.Struct, frozen=True, kw_only=True):
    """A model as the API shows it."""

    id: str
    created: int
    owned_by: str
    object: str = "model"
    shutdown_date: str | None = None


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A tuned model, or a checkpoint of one.

    Attributes:
        base: name of the base model.
        adapter: path relative to the data folder; None if there is none that can be served here.
        job: id of the fine-tuning job.
        kept_at: path of a model in a form that is not served here.
        base_url: server that answers for it, up to and including `/v1`.
        remote_model: its name there.
    """

    id: str
    created: int
    base: str
    adapter: str | None
    job: str
    kept_at: str | None = None
    base_url: str | None = None
    remote_model: str | None = None


class ModelStore:
    """The models of a data folder.

    Args:
        root: the data folder; the entries are in its `models/`.
        traits: of the engine behind it.
    """

    def __init__(self, root: Path, traits: EngineTraits) -> None:
        self._root = root
        self._traits = traits
        self._tuned = JsonStore(
            root / "models",
            "*.json",
            ServedModel,
            identify=lambda model: model.id,
            made_at=lambda model: model.created,
            is_sound=lambda model: model.adapter is None or _is_inside(model.adapter),
        )

    def all(self) -> list[ModelObject]:
        """The base model, then the tuned ones of this base, newest first."""
        servable = [model for model in self._tuned.newest_first() if self._fits(model)]
        return [self._base_object(self._traits.base_model), *(self._tuned_object(model) for model in servable)]

    def get(self, name: str) -> ModelObject:
        """Raises ApiError: 404."""
        model = self._find(name)
        return self._tuned_object(model) if model else self._base_object(name)

    def adapter(self, name: str) -> Path | None:
        """The adapter of a model; None for a base model. Raises ApiError: 404, or 400 if it is not served here."""
        model = self._find(name)
        if model and model.kept_at and not model.base_url:
            message = f"The model '{name}' is in {model.kept_at}, in a format that this server cannot serve."
            raise ApiError(400, message, param="model", code="model_not_served")
        return self._root / model.adapter if model and model.adapter else None

    def tuned(self, name: str) -> ServedModel:
        """Return a tuned model. Raises ApiError: 404 for any other name."""
        model = self._find(name)
        if model is None:
            raise _not_found(f"The model '{name}' is a base model; only tuned models are stored here.")
        return model

    def remote(self, name: object) -> ServedModel | None:
        """The tuned model for which another server answers; None for any other name."""
        model = self._tuned.get(name) if isinstance(name, str) else None
        return model if model and model.base_url else None

    def add(self, model: ServedModel) -> None:
        self._tuned.put(model)

    def delete(self, name: str) -> None:
        """Delete a tuned model and its adapter.

        Raises:
            ApiError: 404 for an unknown one, 403 for a base model.
        """
        model = self._find(name)
        if model is None:
            message = f"{name} is a base model; only tuned models can be deleted."
            raise ApiError(403, message, param="model", code="base_model")
        self._remove(model)

    def forget(self, job: str) -> None:
        """Delete the models of a job that is trained again."""
        for model in self._tuned.newest_first():
            if model.job == job:
                self._remove(model)

    def _remove(self, model: ServedModel) -> None:
        self._tuned.remove(model.id)
        # The last checkpoint of a job and its result are one file under two names.
        if model.adapter and not any(other.adapter == model.adapter for other in self._tuned.newest_first()):
            (self._root / model.adapter).unlink(missing_ok=True)

    def _find(self, name: str) -> ServedModel | None:
        model = self._tuned.get(name)
        if model is not None and self._fits(model):
            return model
        if model is not None:
            raise _not_found(
                f"The model '{name}' was tuned from '{model.base}', but this server runs "
                f"'{self._traits.base_model}'. Start it with --model-path of that model."
            )
        if name.startswith(TUNED) or not (self._traits.any_model or name == self._traits.base_model):
            raise _not_found(
                f"The model '{name}' does not exist on this server, whose base model is '{self._traits.base_model}'."
            )
        return None

    def _fits(self, model: ServedModel) -> bool:
        is_elsewhere = bool(model.base_url or model.kept_at)
        return self._traits.any_model or model.base == self._traits.base_model or is_elsewhere

    def _base_object(self, name: str) -> ModelObject:
        return ModelObject(id=name, created=self._traits.created, owned_by=self._traits.owner)

    def _tuned_object(self, model: ServedModel) -> ModelObject:
        return ModelObject(id=model.id, created=model.created, owned_by=self._traits.organization)


def _is_inside(path: str) -> bool:
    """Whether a path is inside the data folder."""
    return not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts and "\0" not in path


def _not_found(message: str) -> ApiError:
    return ApiError(404, message, param="model", code="model_not_found")
