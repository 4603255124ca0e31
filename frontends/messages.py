"""What frameworks say: their logs and warnings kept from the user, their errors on one line."""

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 400
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def hush() -> None:
    """Keeps TensorFlow, if it is imported later on, from logging to standard error; its C++ part only asks once."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Without the warnings of Python and the log of `loggers`: what matters of it is found in the result."""
    before = [(logging.getLogger(name), logging.getLogger(name).level) for name in loggers]
    for logger, _ in before:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in before:
            logger.setLevel(level)


def one_line(error: BaseException) -> str:
    """The type and the beginning of the message."""
    said = COLOURS.sub("", f"{type(error).__name__}: {error}")
    return " ".join(said.split())[:LONGEST]
