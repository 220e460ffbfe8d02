"""Which weights of an adaptation are its result: those that look best without labels, or the last ones."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ...checkpoint.formats import read_torch
from ...checkpoint.storage import BEST_LABEL_FREE
from ...experiments.label_free_tables import Table


@dataclass
class Chosen:
    """The weights that an adaptation results in.

    Attributes:
        file (str): their path; last (str): that of the last step.
        step (int): 0 = the start.
        steps (int): of the whole run.
        score, start, end (float): scores without labels of the chosen weights, of the start and of the last step;
            None where they were not measured.
        above_start (float): share of resamplings of the images in which the chosen weights are better than the start.
        lost (bool): whether the last step's weights have lost a class of the start, so that their score is 0.
    """

    file: str
    last: str
    step: int
    steps: int
    score: Optional[float] = None
    start: Optional[float] = None
    end: Optional[float] = None
    above_start: Optional[float] = None
    lost: bool = False

    @property
    def is_last(self):
        return self.step == self.steps

    def sentences(self):
        """What was chosen, and why; [] where nothing was measured without labels."""
        if self.score is None:
            return []
        if self.step == 0:
            why = ", as it has lost a class of the start: the log names it" * self.lost
            return [
                f"Without labels, the start (score {self.score:.3f}) looks better than all adapted checkpoints (score "
                f"of the last one: {self.end:.3f}{why}), so the result is the model of the start.",
                "The adaptation did not help.",
            ]
        found = [f"The result has the weights after step {self.step} of {self.steps}."]
        last = "for the last step" + " (it has lost a class of the start: the log names it)" * self.lost
        others = [f"{x:.3f} {what}" for x, what in ((self.start, "for the start"), (self.end, last))
                  if x is not None and not (self.is_last and what == last)]  # fmt: skip
        found.append(f"Their score without labels is the highest: {self.score:.3f}, {', '.join(others)}.")
        if self.above_start is not None:
            found.append(f"They are better than the start in {self.above_start:.0%} of the images' resamplings.")
        return found

    def table(self, ap50=(None, None, None)):
        """The choice as a table of a report.

        Args:
            ap50 (sequence of float): on the test images, of the start, the chosen weights and the last ones.
        """
        rows = [("start", self.start, ap50[0])]
        if 0 < self.step < self.steps:
            rows.append((f"step {self.step}", self.score, ap50[1]))
        rows.append((f"step {self.steps}", self.end, ap50[2]))
        cells = [[name, _text(score, 3), *([_text(ap, 1)] if any(ap50) else [])] for name, score, ap in rows]
        head = ["checkpoint", "score", *(["AP50"] if any(ap50) else [])]
        found = self.sentences()
        if any(ap50):
            found.append("AP50 is that on the test images. It took no part in the choice.")
        warning = "The start looks better than every adapted checkpoint." if self.step == 0 else ""
        return Table("Chosen without target labels", found, head, cells, warning)


def _text(value, digits):
    return "–" if value is None else f"{value:.{digits}f}"


def find_chosen(cfg, last, run):
    """
    Args:
        cfg (CfgNode): of the adaptation.
        last (str): its ``model_final.pth``.
        run (Run): what it logged.

    Returns:
        Chosen: the last weights where ``TEST.LABEL_FREE`` was off, or kept none.
    """
    file, steps = Path(last).with_name(BEST_LABEL_FREE), cfg.SOLVER.MAX_ITER
    if not (cfg.TEST.LABEL_FREE.ENABLED and file.is_file()):
        return Chosen(last, last, steps, steps)
    kept = read_torch(str(file), mmap=True)
    start, scores, lost = (run.curve(f"label_free/{name}")[1] for name in ("start", "score", "lost_classes"))
    step, end = kept["iteration"] + 1, scores[-1] if scores else None
    above = kept.get("label_free_above_start")
    comparable = start and (step == 0 or above is not None)  # else the start was measured by another version's score
    return Chosen(
        last if step == steps else os.fspath(file), last, step, steps, kept["label_free_score"],
        start[0] if comparable else None, end, above, bool(lost and lost[-1]),
    )  # fmt: skip
