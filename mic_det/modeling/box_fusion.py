"""Weighted box fusion of a teacher's detections with those of another labeller (Solovyev et al., 2021).

The boxes of each of the two have been through non-maximum suppression, so a cluster has one box of the teacher, and the
labeller's boxes that overlap it most. All operations are on tensors of known sizes: the host waits for nothing.
"""

from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances, pairwise_iou


@dataclass
class LabellerFusion:
    """How boxes of a labeller join a teacher's detections: the keys of ``MODEL.MIC.LABELLER``.

    ``replace``: the labeller's boxes are used instead of the teacher's. ``trust`` and ``iou_threshold`` are those of
    :func:`fuse_detections`. ``until_step``: optimizer steps from the start in which it is used; 0 = all.
    """

    replace: bool = False
    trust: float = 0.5
    iou_threshold: float = 0.55
    until_step: int = 0

    @classmethod
    def from_config(cls, cfg):
        """None where there is no labeller."""
        keys = cfg.MODEL.MIC.LABELLER
        if not keys.JSON:
            return None
        return cls(keys.FUSE == "replace", keys.TRUST, keys.IOU_THRESHOLD, keys.UNTIL_STEP)

    def active(self, step):
        """Whether the labeller is used in an optimizer step, counted from 0."""
        return not self.until_step or step < self.until_step

    def __call__(self, teacher, labeller):
        """Detections (``Instances``) of an image in place of the teacher's."""
        labeller = labeller.to(teacher.scores.device)
        return labeller if self.replace else fuse_detections(teacher, labeller, self.trust, self.iou_threshold)


@torch.no_grad()
def fuse_detections(teacher, labeller, trust=0.5, iou_threshold=0.55):
    """Weighted box fusion of M detections of a teacher with L of a labeller, class by class.

    A labeller's box joins the teacher's box of its class that it overlaps most, if their IoU is above the threshold.
    The fused box is the mean of the boxes of a cluster, weighted by s_T for the teacher's and ``trust`` s_L for the
    labeller's. Its score is max(s_T, trust s_L + (1 - trust) s_T) with the largest s_L; s_T = 0 for a box of the
    labeller alone. With trust 0.5 this is the score "avg" of weighted box fusion, and with 1 its score "max", except
    that a box of the teacher never loses score where the labeller is silent.

    Args:
        teacher, labeller (Instances): ``pred_boxes``, ``scores`` and ``pred_classes``, in one frame.
        trust (float): in (0, 1].
        iou_threshold (float): least IoU, exclusive.

    Returns:
        Instances: M + L rows, the teacher's first. The row of a labeller's box that has joined another has score 0.
    """
    boxes, scores = teacher.pred_boxes.tensor.float(), teacher.scores.float()
    others, other_scores = labeller.pred_boxes.tensor.float(), labeller.scores.float() * trust
    joined = torch.zeros(len(others), dtype=torch.bool, device=scores.device)
    fused_scores = scores
    if len(boxes) and len(others):
        iou = pairwise_iou(Boxes(boxes), Boxes(others))
        iou = iou * (teacher.pred_classes[:, None] == labeller.pred_classes)
        best, partner = iou.max(dim=0)
        joined = best > iou_threshold
        weight = other_scores * joined
        total = scores.index_add(0, partner, weight)
        sums = (boxes * scores[:, None]).index_add(0, partner, others * weight[:, None])
        boxes = torch.where(total[:, None] > 0, sums / total.clamp(min=1e-12)[:, None], boxes)
        most = torch.zeros_like(scores).scatter_reduce(0, partner, weight, "amax")
        fused_scores = torch.maximum(scores, most + (1 - trust) * scores * (most > 0))
    return Instances(
        teacher.image_size,
        pred_boxes=Boxes(torch.cat([boxes, others])),
        scores=torch.cat([fused_scores, other_scores * ~joined]),
        pred_classes=torch.cat([teacher.pred_classes, labeller.pred_classes]),
    )
