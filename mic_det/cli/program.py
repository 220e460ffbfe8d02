"""The commands and how one runs: its arguments are read first, and PyTorch is imported only after that."""

import argparse
import importlib
import sys
from dataclasses import dataclass

import mic_det

from ..errors import MICError
from ..utils.programs import start_program


@dataclass(frozen=True)
class Command:
    """``module`` in this folder has ``main(args)``. The module of the same name in ``arguments/`` has the arguments."""

    module: str
    help: str = ""  # one line of `mic-det --help`; "" for the developers' commands


COMMANDS = {
    "adapt": Command("adapt", "two folders in, an adapted detector out: begin here"),
    "train": Command("train", "train or evaluate the model of a config file"),
    "check": Command("check", "check every image and every box of a config's data sets"),
    "predict": Command("predict", "find objects in images, folders and videos"),
    "visualize": Command("visualize", "draw pseudo-boxes, masked views and predictions"),
    "select": Command("select_checkpoint", "choose a checkpoint without target labels"),
    "estimate": Command("estimate", "estimate AP50 on target images without labels"),
    "which-images": Command("which_images", "the target images that are most worth a label"),
    "report": Command("report", "write one HTML page about one or several runs"),
    "export": Command("export", "write the model for ONNX, TorchScript, a web page, or plain Detectron2"),
    "demo": Command("demo", "train and adapt on the miniature city, without any download"),
    "install-detectron2": Command("install_detectron2", "install Detectron2 as pure Python, where there is none"),
    "ablation": Command("ablation"),
    "benchmark": Command("benchmark"),
    "judge-criteria": Command("judge_criteria"),
    "context": Command("context"),
    "gpu-check": Command("gpu_check"),
    "label-with": Command("label_with"),
    "lazy": Command("lazy"),
    "make-minicity": Command("make_minicity"),
    "noisy-labels": Command("noisy_labels"),
}
HEAD = """Masked Image Consistency: adapt a Detectron2 detector to images without labels.

"""
TAIL = """

`mic-det COMMAND --help` shows the arguments of a command. First steps:
    mic-det adapt day fog_images --output out         # your own two folders
    mic-det demo                                      # needs no data
"""


def main(argv=None):
    """The program ``mic-det``; returns its exit code, or ends the program."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        "mic-det", usage="mic-det COMMAND ...", description=_overview(), add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("-h", "--help", action="help", help="show this text")
    parser.add_argument("--version", action="version", version=f"mic-det {mic_det.__version__}")
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS, metavar="COMMAND")
    command = parser.parse_args(argv[:1] or ["--help"]).command
    return run(command, argv[1:], f"mic-det {command}")


def _overview():
    shown = "\n".join(f"    {name:20s}{command.help}" for name, command in COMMANDS.items() if command.help)
    others = ", ".join(name for name, command in COMMANDS.items() if not command.help)
    return f"{HEAD}commands:\n{shown}\n    also: {others}{TAIL}"


def run(name, argv, shown):
    """Run one command to its end.

    Args:
        name (str): a key of COMMANDS.
        argv (list[str]): its arguments.
        shown (str): the call as the help shows it.

    Returns:
        int or None: the exit code. An error that a user can correct ends the program with one line, ``error: ...``.
    """
    start_program()
    module = COMMANDS[name].module
    if module == "install_detectron2":  # needs neither Detectron2 nor the rest of mic_det
        return _body(module).main(argv, prog=shown)
    args = read_arguments(module, argv, shown)
    try:
        if _needs_detectron2(module, args):
            mic_det.register_with_detectron2()
        return _body(module).main(args)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    except Exception as e:
        if message := _advice(e):
            sys.exit(f"error: {message}")
        raise


def read_arguments(module, argv, shown):
    """The arguments of a command as its body takes them; ``shown`` is the call as the help shows it."""
    arguments = importlib.import_module(f".arguments.{module}", __package__)
    parser = argparse.ArgumentParser(
        shown.split("/")[-1],
        description=arguments.__doc__.replace("{program}", shown),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add(parser)
    intermixed = getattr(arguments, "INTERMIXED", False)
    args = parser.parse_intermixed_args(argv) if intermixed else parser.parse_args(argv)
    if hasattr(arguments, "check"):
        arguments.check(parser, args)
    return args


def _needs_detectron2(module, args):
    arguments = importlib.import_module(f".arguments.{module}", __package__)
    return getattr(arguments, "needs_detectron2", lambda args: True)(args)


def _body(module):
    return importlib.import_module(f".{module}", __package__)


def _advice(error):
    if isinstance(error, ImportError) and str(error).startswith(mic_det.NO_DETECTRON2):
        return str(error)
    try:
        from ..engine.launch import advice
    except ImportError:  # a package is missing: the program's own error names it
        return str(error) if isinstance(error, MICError) else ""
    return advice(error)
