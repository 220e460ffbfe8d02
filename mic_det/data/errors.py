"""The error of everything that reads data."""

from ..errors import MICError


class DataError(MICError, RuntimeError):
    """A data set that cannot be used; the message names the file and says what to do."""

    def __init__(self, message):
        # a loader's worker process sends its whole traceback as the message; its last line is the error
        text = str(message)
        if "Traceback (most recent call last)" in text:
            text = text.strip().splitlines()[-1].split("DataError: ")[-1]
        super().__init__(text)
