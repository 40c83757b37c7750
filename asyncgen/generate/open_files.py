"""Open files: each request in flight is one, and systems allow a process few of them until it asks for more.

Owns the asking. Knows nothing of requests.
"""

from __future__ import annotations

import contextlib
import resource

from asyncgen.errors import UsageError

_OTHERS = 128  # the run's files, the event loop's, the libraries', and connections that are being closed


def allow_connections(count: int) -> None:
    """See that so many connections may be open at once.

    Raises:
        UsageError: the system does not allow as many.
    """
    needed = count + _OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with contextlib.suppress(ValueError, OSError):  # some systems have another limit above this one
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    if soft < needed:
        raise UsageError(
            f"{count:,} requests in flight need {needed:,} open files, and this system allows {soft:,}",
            help_text=f"--concurrency {max(soft - _OTHERS, 1)}, or raise the limit first: ulimit -Hn {needed}",
        )
