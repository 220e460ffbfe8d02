"""The errors that a user can put right."""

from .utils.printable import printable


class MICError(Exception):
    """One line that names what is wrong and says what to do; names in it are shown as :func:`printable` shows them."""

    def __init__(self, message):
        super().__init__(printable(message))


class ConfigError(MICError, ValueError):
    """A setting that cannot work; the message names the key and what is allowed."""


class DataError(MICError, RuntimeError):
    """A data set that cannot be used; the message names the file and says what to do."""

    def __init__(self, message):
        # a loader's worker process sends its whole traceback as the message; its last line is the error
        text = str(message)
        if "Traceback (most recent call last)" in text:
            text = text.strip().splitlines()[-1].split("DataError: ")[-1]
        super().__init__(text)


class CheckpointError(MICError, RuntimeError):
    """Weights that cannot be used; the message names the file and says what to do."""


class NonFiniteError(MICError, FloatingPointError):
    """A loss or gradient that is not finite; the message names it, the iteration, the images, and what to do."""


class RunError(MICError, RuntimeError):
    """A program ended with an error; the message says where to read about it."""


class WorkerError(MICError, RuntimeError):
    """A worker process ended without a result."""


class FogError(MICError, RuntimeError):
    """Fog that cannot be made; the message names the file and says what to do."""


class MinicityError(MICError, RuntimeError):
    """The city cannot be made as asked; the message says what to do."""
