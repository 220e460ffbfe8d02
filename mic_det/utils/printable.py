"""Names of files and classes as a terminal or a log may show them."""

import unicodedata


def printable(text):
    """Text that a terminal shows as it is: control characters and halves of characters as escapes (``\\x1b``).

    Names of files and classes may hold what clears a screen, hides a line or turns the direction of writing.
    """
    return "".join(c if _is_printable(c) else c.encode("unicode_escape").decode("ascii") for c in str(text))


def _is_printable(c):
    # Cc: control; Cf: invisible, such as changes of direction; Cs: lone halves; Zl, Zp: line breaks of Unicode.
    # The two that join letters or keep them apart belong to the spelling of some languages.
    return c in "\u200c\u200d" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
