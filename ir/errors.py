"""What can go wrong, as exceptions; `tools/commands/exit_codes.py` says what the command line makes of each."""


class KronnxError(Exception):
    """Root of all errors that Kronnx raises on purpose; anything else is a bug."""


class UsageError(KronnxError):
    """A pass, an option or a value that does not exist or does not fit."""


class InputError(KronnxError):
    """A model, data or an environment that can't be worked with."""


class GraphError(InputError):
    """A graph that breaks a rule of ONNX or of the analysis that reads it."""


class ShapeError(GraphError):
    """A tensor whose shape is not the one that is needed."""


class UnsupportedOp(GraphError):
    """An operator that a table of rules has no entry for."""


class DataError(InputError):
    """Data whose names, shapes, types or values don't fit the model."""


class VerifyError(KronnxError):
    """A result that is not a valid model, or no longer has the original's signature."""


class BuiltGraphError(VerifyError):
    """A graph that Kronnx built and the runtime doesn't load or run: a fault of Kronnx, not of the model."""


class BudgetError(KronnxError):
    """A budget (speed-up, size, multiply-adds) that could not be reached within the gate."""


class TimeLimitError(KronnxError):
    """The time that a job was given is over."""


class PluginError(KronnxError):
    """A pass or a frontend of another package that can't be used, failed, or gave what it mustn't."""


DOES_NOT_RUN = (InputError, BuiltGraphError)
"""What is raised where a graph made of a model can't be built, loaded or run, for callers that do without it."""
