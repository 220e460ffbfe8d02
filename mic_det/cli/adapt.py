"""Two folders in, an adapted detector out."""


def main(args):
    raise NotImplementedError
