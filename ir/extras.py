"""How what Kronnx can do without is installed."""


def install(extra: str, *options: str) -> str:
    """The command, for messages; there is no package index that has Kronnx, so it is for a checkout."""
    return " ".join(("pip install", *options, f"-e '.[{extra}]'", "in the checkout of Kronnx"))
