"""Ends what a dead parent leaves behind: no engine outlives `whaleflux`.

Runs as a process of its own beside the local runtime, which writes one line per process
group it starts (`+PGID`) or has ended (`-PGID`). When the pipe closes, however the parent
died, every group still listed is killed. Uses the standard library alone, so that it is
up at once.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    """Read lines until the pipe closes, then kill what is left."""
    groups: set[int] = set()
    for line in sys.stdin:
        change, group = line[0], int(line[1:])
        (groups.add if change == "+" else groups.discard)(group)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
