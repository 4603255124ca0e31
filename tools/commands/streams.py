"""What the command says: answers on standard output, errors on standard error."""

import io
import os
import sys
import traceback


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def failed(message: str, code: int) -> int:
    """Says why, and gives `code` back; KRONNX_TRACEBACK=1 shows where an exception came from."""
    if os.environ.get("KRONNX_TRACEBACK") == "1" and sys.exc_info()[0] is not None:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    return code


def print_anything() -> None:
    """Lets a stream that can't encode a sign (µ, ×) show a question mark instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
