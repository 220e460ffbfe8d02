"""Runs the parts of a check as processes with time limits, and writes what is known after each of them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

from ...errors import ConfigError
from .report import as_markdown

ROOT = Path(__file__).resolve().parents[3]
LEAST = 5.0  # seconds: a part is not started with less
LOG_END = 1500  # characters of a failed part's output that the result has


class Running:
    """A part that runs: its process, its output and its result so far."""

    def __init__(self, part, settings, folder, packages, limit):
        """
        Args:
            part (Part), settings (Settings): what runs.
            folder (Path): for its files.
            packages (Path): comes on PYTHONPATH.
            limit (float): seconds, after which it is killed.
        """
        self.part, self.limit, self.killed = part, limit, False
        self.file, self.log = folder / f"{part.name}.json", folder / f"{part.name}.log"
        paths = [str(ROOT), str(packages), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-m", "mic_det.benchmark.gpu_check.part", part.name]
        sizes = json.dumps(asdict(replace(settings, limit=limit)))
        self.start = time.monotonic()
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen(
                [*command, sizes, str(self.file)], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def ended(self):
        """Whether it has ended; one that is beyond its limit is killed with all its workers."""
        if self.process.poll() is None and time.monotonic() - self.start > self.limit:
            self.kill()
            self.process.wait()
            self.killed = True
        return self.process.poll() is not None

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def result(self):
        """{"status", "seconds", "found", "error" where there is one}."""
        code = self.process.returncode
        status = f"stopped after {self.limit:.0f} s" if self.killed else "done" if code == 0 else f"failed ({code})"
        result = {"status": status, "seconds": round(time.monotonic() - self.start, 1), "found": {}}
        with contextlib.suppress(OSError, ValueError):
            result["found"] = json.loads(self.file.read_text(encoding="utf-8"))
        if status != "done":
            result["error"] = self.output()[-LOG_END:]
        return result

    def output(self):
        return self.log.read_text(encoding="utf-8", errors="replace")


class Check:
    """All parts of a plan, one stage after the other.

    Attributes:
        result (dict): ``parts`` has what :meth:`Running.result` returns, by name.
    """

    def __init__(self, plan, outputs, folder, packages, installed=()):
        """
        Args:
            plan (Plan): parts, sizes and seconds.
            outputs (Outputs): for gpu_check.json, gpu_check.md and gpu_check.log.
            folder (Path): for the files of the parts.
            packages (Path): folder of installed packages.
            installed (list[str]): wheels that are in it.
        """
        self.plan, self.outputs, self.packages = plan, outputs, packages
        self.folder = folder
        self.settings = replace(plan.settings, folder=str(folder))
        self.log = ""
        self.result = {"rehearsal": plan.settings.device == "cpu", "size": plan.settings.size, "parts": {},
                       "installed": list(installed)}  # fmt: skip

    def run(self):
        """
        Raises:
            ConfigError: where there is no GPU, and it is no rehearsal.
        """
        self.start = time.monotonic()
        with _stoppable():
            for stage in sorted({p.stage for p in self.plan.parts}):
                self._run_stage([p for p in self.plan.parts if p.stage == stage])

    @property
    def succeeded(self):
        parts = self.result["parts"].values()
        return all(p["status"] == "done" and not p["found"].get("failed") for p in parts)

    def _left(self):
        return self.plan.seconds - (time.monotonic() - self.start)

    def _run_stage(self, parts):
        running = []
        try:
            for part in parts:
                limit = min(part.limit, self._left())
                if limit < LEAST:
                    self._note(part.name, {"status": "no time left", "seconds": 0.0, "found": {}}, "")
                    continue
                print(f"{part.name}: at most {limit:.0f} s", flush=True)
                running.append(Running(part, self.settings, self.folder, self.packages, limit))
            while running:
                for one in [x for x in running if x.ended()]:
                    running.remove(one)
                    self._note(one.part.name, one.result(), one.output())
                    if one.part.name == "machine":
                        self._check_gpu(one)
                time.sleep(0.1)
        finally:
            for one in running:
                one.kill()
                one.process.wait()
                self._note(one.part.name, {**one.result(), "status": "interrupted"}, one.output())

    def _check_gpu(self, machine):
        if not self.result["rehearsal"] and not machine.result()["found"].get("gpu"):
            raise ConfigError(
                f"PyTorch finds no usable GPU here. --rehearse tries the program on the CPU. {machine.output()[-300:]}"
            )

    def _note(self, name, result, output):
        print(f"{name}: {result['status']}, {result['seconds']} s", flush=True)
        self.result["parts"][name] = result
        self.result["seconds"] = round(time.monotonic() - self.start, 1)
        self.log += f"==== {name}: {result['status']}, {result['seconds']} s\n{output}\n"
        self.outputs.write_text("gpu_check.json", json.dumps(self.result, indent=1))
        self.outputs.write_text("gpu_check.md", as_markdown(self.result))
        self.outputs.write_text("gpu_check.log", self.log)


@contextlib.contextmanager
def _stoppable():
    """SIGTERM ends the program as Ctrl-C does: the parts' processes end, and their results are written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
