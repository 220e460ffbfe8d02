"""A teacher's predictions for given regions and anchors of the whole images that it has seen."""

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes

from ...errors import ConfigError
from ..regions import region_keypoints, region_scores


class RegionTeacher:
    """A teacher with the features of N images that it has seen. It reuses them without another pass of its backbone.

    Regions are in the frame of the student's views. Results have no gradient.
    """

    def __init__(self, model, view, rpn_outputs=None):
        """
        Args:
            model (nn.Module): an R-CNN in eval mode.
            view (TeacherView): the view of N images, with features.
            rpn_outputs (tuple): result of ``rpn_predictions`` for these features; needed by :meth:`anchor_outputs`.
        """
        self._model, self._view, self._rpn_outputs = model, view, rpn_outputs

    @torch.no_grad()
    def background_prob(self, boxes):
        """Probability that a region is background: N tensors (R_i,) for N box tensors (R_i, 4)."""
        probs, _ = self.class_outputs(boxes)
        return [p[:, -1] for p in probs]

    @torch.no_grad()
    def class_outputs(self, boxes):
        """Class probabilities, N tensors (R_i, K + 1) with background last, and N tensors of deltas.

        The boxes are N tensors (R_i, 4). The deltas are (R_i, 4), or (R_i, K * 4) where each class has its own.
        """
        counts = [len(b) for b in boxes]
        logits, deltas = region_scores(self._model.roi_heads, self._view.features, self._scaled(boxes))
        return logits.softmax(dim=1).split(counts), deltas.split(counts)

    @torch.no_grad()
    def keypoints(self, boxes):
        """Keypoints in given regions: N tensors (R_i, K, 3), rows (x, y, score), for N box tensors (R_i, 4)."""
        found = region_keypoints(self._model.roi_heads, self._view.features, self._scaled(boxes))
        return [k / k.new_tensor([sx, sy, 1.0]) for k, (sx, sy) in zip(found, self._view.scales)]

    def _scaled(self, boxes):
        """Regions in the frame of the teacher's images."""
        return [Boxes(b * b.new_tensor([sx, sy, sx, sy])) for b, (sx, sy) in zip(boxes, self._view.scales)]

    @torch.no_grad()
    def anchor_outputs(self, shapes):
        """Objectness logits (N, A) and deltas (N, A, B) of the anchors on feature maps of other sizes.

        A batch pads its images to their largest, so the student's maps may be larger or smaller than the teacher's.
        An anchor is at the same place of the image in both. Anchors outside of the teacher's padded images do not exist
        there: they have the logit -inf.

        Args:
            shapes (list[(int, int)]): height and width of the student's map for each level of the RPN.

        Raises:
            ConfigError: where the teacher sees images of another size, because they have other anchors.
        """
        if any(scale != (1.0, 1.0) for scale in self._view.scales):
            raise ConfigError(
                "with MODEL.MIC.CONSISTENCY.TARGETS 'soft', the RPN's terms compare teacher and student on the same "
                "anchors, but the teacher sees images of another size: set MODEL.MIC.TEACHER.INPUT_SIZE 0."
            )
        _, logits, deltas = self._rpn_outputs
        maps = [self._view.features[name] for name in self._model.proposal_generator.in_features]
        logits, deltas = (
            torch.cat([_resized(x, m.shape[-2:], shape, fill) for x, m, shape in zip(levels, maps, shapes)], dim=1)
            for levels, fill in ((logits, -torch.inf), (deltas, 0.0))
        )
        return logits.float(), deltas.float()


def _resized(values, shape, new_shape, fill):
    """Values (N, H W A, ...) of the anchors of a map, cut or padded at its end to a map of another size."""
    (height, width), (new_height, new_width) = shape, new_shape
    if (height, width) == tuple(new_shape):
        return values
    grid = values.reshape(len(values), height, width, -1)
    grid = F.pad(grid, (0, 0, 0, new_width - width, 0, new_height - height), value=fill)
    return grid.reshape(len(values), -1, *values.shape[2:])
