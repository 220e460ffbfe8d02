"""The error of everything that reads data."""


class DataError(RuntimeError):
    """A data set that cannot be used; the message names the file and says what to do."""
