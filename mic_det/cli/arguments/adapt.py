"""Two folders in, an adapted detector out.

mic-det adapt a b
"""


def add(parser):
    pass
