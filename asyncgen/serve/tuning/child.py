"""`python -m asyncgen.serve.tuning.child COMMAND...`: runs a trainer that does not outlive the server.

The server holds the other end of stdin and starts this process as the head of a group. When stdin closes, because the
server died, the whole group is killed: the trainer and whatever it started. Passes stdout on and exits as the command
does. Leaves reading what the trainer says to the server.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from threading import Thread


def main(command: list[str]) -> int:
    """Run the command; returns its exit code, or 127 if it cannot be started."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # meant for the trainer, which may have something to finish
    Thread(target=_kill_with_stdin, daemon=True).start()
    try:
        return subprocess.call(command, stdin=subprocess.DEVNULL)  # noqa: S603 - the command is the user's own
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return 127


def _kill_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
