"""What other libraries send, or look up, unasked: switched off before they are imported (docs/privacy.md)."""

import os
import sys

SWITCHES = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def switch_off() -> None:
    """Sets the variables of `SWITCHES` for this process and its children.

    ONNX Runtime, since 1.29 on Linux, reads its own when it is imported, and then only. For one that was imported
    earlier nothing but its events can be stopped; what it began at import goes on.
    """
    os.environ.update(SWITCHES)
    stop = getattr(sys.modules.get("onnxruntime"), "disable_telemetry_events", None)
    if stop is not None:
        stop()
