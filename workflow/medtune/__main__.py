"""`medtune`, and `python -m medtune`."""

import signal
import sys


def main() -> None:
    """Run the command line; Ctrl-C while its modules load ends it without a traceback."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as `stopping.listen`
        signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    from medtune.cli import main as run

    run()


if __name__ == "__main__":
    main()
