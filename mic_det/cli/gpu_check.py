"""Test and measure mic_det on a machine with a GPU. Nothing here needs PyTorch: the parts are processes."""

import tempfile
from pathlib import Path

from ..benchmark.gpu_check.plan import Plan
from ..benchmark.gpu_check.report import as_markdown, insert_into_page, read_result
from ..benchmark.gpu_check.running import Check
from ..utils.outputs import Outputs
from .gpu_wheels import fetch_wheels, install_missing

FILES = ("gpu_check.json", "gpu_check.md", "gpu_check.log")


def main(args):
    """Returns the exit code: 1 where a part failed or a test did."""
    if args.fetch_wheels:
        print(fetch_wheels(args.fetch_wheels, args.python))
        return 0
    if args.page:
        insert_into_page(args.page, read_result(Path(args.output) / FILES[0]))
        print(f"written to {args.page}")
        return 0
    plan = Plan.of(args.minutes, args.rehearse, args.only)
    outputs = Outputs(args.output, "gpu-check", [args.wheels] if args.wheels else [], args.overwrite)
    outputs.check(FILES)
    with tempfile.TemporaryDirectory(prefix="gpu_check") as scratch:
        packages = Path(scratch, "packages")
        installed = install_missing(args.wheels, packages) if args.wheels else []
        check = Check(plan, outputs, Path(scratch), packages, installed)
        check.run()
    print(as_markdown(check.result))
    return 0 if check.succeeded else 1
