"""`python -m asyncgen.dataset.part_child`: reads a part of a run for another process.

Takes a `PartRequest` on stdin and answers on stdout with a `PartFound` or a `PartFailure`, all pickled. Stdin stays
open as long as the other process lives; when it closes this process ends, so that none outlives a killed command.
Starting it and putting the findings together are left to `parts`.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from threading import Thread
from typing import Any

from asyncgen.dataset.parts import PartFailure, PartFound, PartRequest, ended_early
from asyncgen.dataset.writer import RowFile, collector_off
from asyncgen.errors import AsyncgenError
from asyncgen.run.jsonl import BadLineError
from asyncgen.run.records import decode_record
from asyncgen.run.whole_file import as_disk_error


def main() -> None:
    """Read the part that is asked for, and answer."""
    request: PartRequest[Any] = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own command
    Thread(target=_end_with_stdin, daemon=True).start()
    pickle.dump(answer_to(request), sys.stdout.buffer)
    sys.stdout.buffer.flush()


def answer_to(request: PartRequest[Any]) -> PartFound[Any] | PartFailure:
    """Read a part in this process.

    Args:
        request: what to read, and what to look for.

    Returns:
        What was found, or why nothing was.
    """
    rows = RowFile(request.paths, decode_record)
    outputs = [os.fdopen(descriptor, "wb", closefd=False) for descriptor in request.outputs]
    where = request.part[0]
    try:
        scan = request.task.scan(outputs)
        with collector_off(), as_disk_error(f"temporary files in {request.paths[0].parent} could not be written"):
            for where in request.part:
                for records in rows.blocks_of(where):
                    scan.at_records(records)
            with rows.fetcher() as lines:
                scan.end_part(lines)
            for file in outputs:
                file.flush()
    except BadLineError as error:
        return PartFailure(BadLineError, error.what, error.cause, line=error.number, where=where)
    except AsyncgenError as error:
        return PartFailure(type(error), error.what, error.cause, error.help_text)
    except MemoryError:
        return ended_early(request.paths[where.file], None)
    except Exception:  # noqa: BLE001 - a bug, which the command shows
        return PartFailure(None, traceback.format_exc())
    return PartFound(scan.found, rows.begins, rows.lines)


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
