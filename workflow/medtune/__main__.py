"""`medtune`, and `python -m medtune`."""

import os
import signal
import sys

from medtune.orchestration.attempts import head


def share_cores() -> None:
    """Let compute threads sleep while they wait for each other, in this process and its children.

    Spinning threads hold their cores: as soon as another process wants one, the thread that all
    wait for is the one that does not run. OpenMP reads this when it is loaded. What the user has
    set, holds.
    """
    if "OMP_WAIT_POLICY" not in os.environ and "GOMP_SPINCOUNT" not in os.environ:
        os.environ.update(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="0")


def main() -> None:
    """Run the command line; Ctrl-C while its modules load ends it without a traceback."""
    share_cores()
    if line := head():
        print(line, file=sys.stderr, flush=True)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as `stopping.listen`
        signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    from medtune.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
