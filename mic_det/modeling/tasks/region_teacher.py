"""What a teacher predicts for given regions and anchors of the images that it has seen whole."""

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes

from ...errors import ConfigError
from ..regions import region_scores


class RegionTeacher:
    """A teacher and the features of N images that it has seen: they are reused, and its backbone does not run again.

    Regions are in the frame of the student's views. Nothing that is returned has a gradient.
    """

    def __init__(self, model, view, rpn_outputs=None):
        """
        Args:
            model (nn.Module): an R-CNN in eval mode.
            view (TeacherView): of N images, with features.
            rpn_outputs (tuple): what ``rpn_predictions`` returns for these features, where anchors are asked about.
        """
        self._model, self._view, self._rpn_outputs = model, view, rpn_outputs

    @torch.no_grad()
    def background_prob(self, boxes):
        """Probability that nothing is in a region: N tensors (R_i,) of N box tensors (R_i, 4)."""
        probs, _ = self.class_outputs(boxes)
        return [p[:, -1] for p in probs]

    @torch.no_grad()
    def class_outputs(self, boxes):
        """Of N box tensors (R_i, 4): N tensors (R_i, K + 1), class probabilities, background last, and N of deltas.

        The deltas are (R_i, 4), or (R_i, K * 4) where each class has its own.
        """
        counts = [len(b) for b in boxes]
        boxes = [Boxes(b * b.new_tensor([sx, sy, sx, sy])) for b, (sx, sy) in zip(boxes, self._view.scales)]
        logits, deltas = region_scores(self._model.roi_heads, self._view.features, boxes)
        return logits.softmax(dim=1).split(counts), deltas.split(counts)

    @torch.no_grad()
    def anchor_outputs(self, shapes):
        """Objectness logits (N, A) and deltas (N, A, B) of the anchors on feature maps of other sizes.

        A batch pads its images to their largest, so the student's maps may be larger or smaller than the teacher's.
        An anchor is at the same place of the image in both. Anchors that the teacher has not, which lie beyond its
        padded images, have the logit -inf.

        Args:
            shapes (list[(int, int)]): height and width of the map of each of the RPN's levels.

        Raises:
            ConfigError: where the teacher sees images of another size, whose anchors are others.
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
    """Values (N, H W A, ...) of the anchors of a map as those of a larger or smaller map with the same first row and
    column."""
    (height, width), (new_height, new_width) = shape, new_shape
    if (height, width) == tuple(new_shape):
        return values
    grid = values.reshape(len(values), height, width, -1)
    grid = F.pad(grid, (0, 0, 0, new_width - width, 0, new_height - height), value=fill)
    return grid.reshape(len(values), -1, *values.shape[2:])
