"""`python -m kronnx`, and the console scripts `optimize` and `kronnx`."""

import signal
import sys

from .tools.commands.cli import main as run


def main() -> int:
    """Runs the process's own arguments; a polite kill unwinds, so that temporary files go."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return run()


if __name__ == "__main__":
    sys.exit(main())
