"""The door of all programs: ``mic-det`` and the files in tools/.

It lies beside the package, because importing mic_det imports Detectron2 and PyTorch, which takes seconds. Help, the
version and the installer of Detectron2 need neither.
"""

import sys

light = False  # while it is True, importing mic_det imports nothing else


def main(argv=None):
    """``mic-det COMMAND ...``; returns the exit code, or ends the program."""
    return _program().main(argv)


def run(command, shown):
    """One command as a program of its own, such as tools/train_net.py.

    Args:
        command (str): see ``mic_det.cli.program.COMMANDS``.
        shown (str): how the program is called in its help.
    """
    if code := _program().run(command, sys.argv[1:], shown):
        sys.exit(code)


def _program():
    global light
    light = True
    try:
        from mic_det.cli import program
    finally:
        light = False
    return program


if __name__ == "__main__":  # python -m mic_det_console; mic_det asks the module of this name
    from mic_det_console import main as console

    sys.exit(console())
