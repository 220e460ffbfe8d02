"""The base of the errors that a user can put right."""

from .printable import printable


class MICError(Exception):
    """One line that names what is wrong and says what to do; names in it are shown as :func:`printable` shows them."""

    def __init__(self, message):
        super().__init__(printable(message))


class ConfigError(MICError, ValueError):
    """A setting that cannot work; the message names the key and what is allowed."""
