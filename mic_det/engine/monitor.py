"""Warnings, once an episode, where self-training goes wrong in ways that raise no error; it looks at what is logged."""

import logging
from collections import deque

from detectron2.engine import HookBase

logger = logging.getLogger(__name__)


class PseudoLabelMonitor(HookBase):
    """Warns of pseudo-labels that collapse: none at all, one class alone, far too many, no pixel that is sure.

    It reads the scalars that MIC logs (``pseudo/...``, ``source/num_boxes``) of the process it runs in; steps
    without them (burn-in) do not count. An episode is reported once, and again only after it was over.

    Args:
        class_names (sequence of str): as they are in ``pseudo/num_boxes_NAME``; () = the student has no boxes.
        steps (int): steps in a row without a pseudo-box, or with too few sure pixels; and the length of the mean
            that is compared with the source's boxes. 0 = no warning.
        one_class_steps (int): steps with pseudo-boxes in a row, all of one class. 0 = no warning.
        boxes_ratio (float): pseudo-boxes a target image, in boxes a source image. 0 = no warning.
        pixel_quality (float or None): mean share of sure pixels; None = the student has no segmentation.
    """

    def __init__(self, class_names, *, steps=200, one_class_steps=500, boxes_ratio=5.0, pixel_quality=None):
        self.class_names = tuple(class_names)
        self.steps, self.one_class_steps, self.boxes_ratio = steps, one_class_steps, boxes_ratio
        self.pixel_quality = pixel_quality
        self.empty = self.unsure = 0  # steps in a row
        self.one_class, self.same = None, 0  # the class of all boxes since the last other one, and steps with it
        self.recent = deque(maxlen=max(1, steps))  # (pseudo-boxes, source boxes) an image of the last steps
        self.too_many = False

    @classmethod
    def from_config(cls, cfg, model):
        """Of ``MODEL.MIC.MONITOR`` for a MIC."""
        watch = cfg.MODEL.MIC.MONITOR
        boxes, pixels = model.task("boxes"), model.task("pixels")
        return cls(
            boxes.logged_names(model.teacher, model.class_names) if boxes else (), steps=watch.PATIENCE,
            one_class_steps=watch.ONE_CLASS_STEPS, boxes_ratio=watch.BOXES_RATIO,
            pixel_quality=watch.PIXEL_QUALITY if pixels else None,
        )  # fmt: skip

    def after_step(self):
        if self.class_names and (boxes := self._of_step("pseudo/num_boxes")):
            self._look_at_numbers(boxes, self._of_step("source/num_boxes"))
            if any(boxes):
                self._look_at_classes()
        if self.pixel_quality is not None and (quality := self._of_step("pseudo/pixel_quality")):
            self._look_at_pixels(sum(quality) / len(quality))

    def _of_step(self, name):
        """What was logged in this step under a name: one value a micro-batch."""
        storage = self.trainer.storage
        values = []
        if name in storage.histories():
            for value, iteration in reversed(storage.history(name).values()):
                if iteration != storage.iter:
                    break
                values.append(value)
        return values

    def _look_at_numbers(self, boxes, source):
        self.empty = 0 if any(boxes) else self.empty + 1
        if self.steps and self.empty == self.steps:
            self._warn(
                f"no target image has had a pseudo-box for {self.steps} steps, so the masked loss teaches nothing. "
                "Lower MODEL.MIC.PSEUDO_BOXES.SCORE_THRESHOLD, train longer on the source first (MODEL.WEIGHTS, "
                "MODEL.MIC.BURN_IN_STEPS), or look at the pictures of VIS_PERIOD."
            )
        if not (self.steps and self.boxes_ratio and source):
            return
        self.recent.append((sum(boxes) / len(boxes), sum(source) / len(source)))
        if len(self.recent) < self.steps:
            return
        pseudo, true = (sum(x) / self.steps for x in zip(*self.recent))
        over = true > 0 and pseudo > self.boxes_ratio * true
        if over and not self.too_many:
            self._warn(
                f"{pseudo:.1f} pseudo-boxes a target image in the last {self.steps} steps, {pseudo / true:.1f} times "
                "what a source image has: errors may be multiplying. Raise "
                "MODEL.MIC.PSEUDO_BOXES.SCORE_THRESHOLD, lower MODEL.MIC.PSEUDO_BOXES.MAX_PER_IMAGE or "
                "MODEL.MIC.CONSISTENCY.WEIGHT, or start from better weights."
            )
        if over != self.too_many:
            self.recent.clear()  # later steps decide whether this is over
        self.too_many = over

    def _look_at_classes(self):
        found = [name for name in self.class_names if any(self._of_step(f"pseudo/num_boxes_{name}"))]
        if len(found) != 1 or len(self.class_names) == 1:
            self.one_class, self.same = None, 0
            return
        self.same = self.same + 1 if self.one_class == found[0] else 1
        self.one_class = found[0]
        if self.one_class_steps and self.same == self.one_class_steps:
            self._warn(
                f"all pseudo-boxes of the last {self.same} steps that had some are of the class {found[0]!r}. If the "
                "target has others, raise its threshold and lower theirs "
                "(MODEL.MIC.PSEUDO_BOXES.SCORE_THRESHOLD_PER_CLASS), or start from better weights."
            )

    def _look_at_pixels(self, quality):
        self.unsure = self.unsure + 1 if quality < self.pixel_quality else 0
        if self.steps and self.unsure == self.steps:
            self._warn(
                f"the teacher has been sure of less than {self.pixel_quality:.1%} of the target's pixels for "
                f"{self.steps} steps, so their loss teaches nothing. Lower "
                "MODEL.MIC.SEM_SEG.PIXEL_THRESHOLD, or train longer on the source first (MODEL.WEIGHTS, "
                "MODEL.MIC.BURN_IN_STEPS)."
            )

    def _warn(self, text):
        logger.warning("iteration %d: %s", self.trainer.iter, text)
