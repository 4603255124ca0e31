"""`python -m kronnx`, and the console scripts `optimize` and `kronnx`."""

import signal
import sys


def main() -> int:
    """Runs the process's own arguments; a polite kill unwinds, so that temporary files go."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        from .tools.commands.cli import main as run

        return run()
    except KeyboardInterrupt:  # before the command line knows what to say, or after
        print("error: interrupted; no model was written", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
