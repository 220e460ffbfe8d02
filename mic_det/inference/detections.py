"""Boxes that a model found, as arrays: what is written to files and compared, whatever computed them."""

from typing import NamedTuple

import numpy as np


class Detections(NamedTuple):
    """``boxes`` (N, 4) float32 in XYXY pixels, ``scores`` (N,) float32 and ``classes`` (N,) int64."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    @classmethod
    def of_instances(cls, instances):
        """Those of Detectron2's ``Instances`` on the CPU."""
        return cls(instances.pred_boxes.tensor.numpy(), instances.scores.numpy(), instances.pred_classes.numpy())
