"""Runs the legacy tool's preparation in its own environment: a JSON line in (a file's path), a JSON line out.

Started by the `oracle` fixture with that environment's Python; asyncgen is not installed there.
"""

import contextlib
import io
import json
import sys

from openai import validators  # type: ignore[attr-defined]  # that old release has it


def prepare(path: str) -> str:
    try:
        table, remedy = validators.read_any_format(path)
        validators.apply_necessary_remediation(None, remedy)
        validators.apply_validators(
            table,
            path,
            remedy,
            validators.get_validators(),
            auto_accept=True,
            write_out_file_func=validators.write_out_file,
        )
    except SystemExit:
        return "refused"
    except Exception as error:  # noqa: BLE001 - whatever the tool dies of is an answer here
        return f"crashed: {error!r}"
    return "done"


for line in sys.stdin:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        outcome = prepare(json.loads(line))
    sys.stdout.write(json.dumps({"outcome": outcome, "said": said.getvalue()}) + "\n")
    sys.stdout.flush()
