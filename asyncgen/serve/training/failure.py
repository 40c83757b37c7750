"""The one error of the trainer.

Owns its shape, which is that of a failed job in the API. Does not know who shows it.
"""

from __future__ import annotations

from asyncgen.errors import AsyncgenError


class TrainingError(AsyncgenError):
    """A training that cannot begin or go on, for a reason that was foreseen.

    Args:
        what: one sentence, without a full stop at its end.
        code: a stable word for machines, such as "invalid_gguf".
        param: the API's parameter that is to blame, such as "training_file"; None when none is.
        cause: the reason, where it adds something.
        help_text: the next step.
    """

    def __init__(
        self,
        what: str,
        *,
        code: str,
        param: str | None = None,
        cause: str | None = None,
        help_text: str | None = None,
    ) -> None:
        super().__init__(what, cause=cause, help_text=help_text, code=code)
        self.param = param

    @property
    def sentence(self) -> str:
        """What, cause and next step in one line, for places that show a single text."""
        cause = f": {self.cause}" if self.cause else ""
        return self.what + cause + (f"; {self.help_text}" if self.help_text else "")
