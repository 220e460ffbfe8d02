"""The task for boxes of any detector whose ``forward`` takes ``instances``: RetinaNet, FCOS, Cascade R-CNN."""

from detectron2.utils.events import get_event_storage

from ...errors import ConfigError
from ..inputs import unnormalised
from ..loss_normalizer import of_masked_images
from .rcnn import BoxTask


class WholeModelTask(BoxTask):
    """The detector's own ``forward`` computes all losses. L_M has one quality weight per image.

    Pseudo-boxes become ``instances``. The student's own losses of a masked image are multiplied by q, the mean score of
    its pseudo-boxes. For R-CNNs with known parts, :class:`RCNNTask` weights each region instead.
    """

    needs_features = False

    def __init__(self, **others):
        super().__init__(**others)
        if self.weights.quality not in ("teacher", "none"):
            raise ConfigError(
                f"MODEL.MIC.CONSISTENCY.QUALITY is {self.weights.quality!r}, which weights each region of an R-CNN. "
                "RetinaNet, FCOS and Cascade R-CNN have one weight per image: use 'teacher' or 'none'."
            )
        if self.weights.targets != "hard":
            raise ConfigError(
                f"MODEL.MIC.CONSISTENCY.TARGETS is {self.weights.targets!r}, which compares teacher and student on the "
                "regions of an R-CNN. RetinaNet, FCOS and Cascade R-CNN compute their own losses: use 'hard'."
            )
        if self.ignore_score:
            raise ConfigError(
                f"MODEL.MIC.PSEUDO_BOXES.IGNORE_SCORE is {self.ignore_score}, which leaves out regions of an R-CNN. "
                "RetinaNet, FCOS and Cascade R-CNN sample their own regions: use 0."
            )
        self._loss_names = ()

    @classmethod
    def applies_to(cls, model):
        detector = hasattr(model, "proposal_generator") or hasattr(model, "head_in_features")
        return detector and hasattr(model, "preprocess_image") and getattr(model, "sem_seg_head", None) is None

    def check(self, model):
        heads = getattr(model, "roi_heads", None)
        for key in ("mask_on", "keypoint_on"):
            if getattr(heads, key, False):
                raise TypeError(
                    f"MODEL.{key.upper()} is True, but pseudo-boxes of {type(heads).__name__} have no masks and no "
                    "keypoints: set it to False, or use StandardROIHeads."
                )

    def num_classes(self, model):
        return model.roi_heads.num_classes if hasattr(model, "roi_heads") else model.num_classes

    def supervised(self, student, view, truth):
        losses = student(_with_instances(student, view.images, truth))
        self._loss_names = tuple(losses)
        get_event_storage().put_scalar("num_boxes", sum(map(len, truth)) / len(truth))
        return losses

    def consistency(self, student, view, pseudo, truth):
        labels = [_instances(x) for x in pseudo.boxes] + truth
        inputs = _with_instances(student, view.images, labels)
        used = self.used(pseudo.boxes) + [True] * len(truth)
        quality = [self._quality(x) for x in pseudo.boxes] + [1.0] * len(truth)
        # every process logs the same terms, even without a pseudo-box
        losses = {k: view.images.tensor.new_zeros(()) for k in self._loss_names if self._term_weight(k)}
        if not any(used) and not self._loss_names:  # L_M alone (no labels): each step needs a loss with a gradient
            used, quality = [True, *used[1:]], [0.0, *quality[1:]]
        for x, q in [(x, q) for x, q, use in zip(inputs, quality, used) if use]:
            with of_masked_images(student):
                found = student([x])
            for name, value in found.items():
                if self._term_weight(name):
                    losses[name] = losses.get(name, 0) + value * q * self._term_weight(name) / len(inputs)
        return losses

    def _quality(self, pseudo):
        if self.weights.quality == "none" or not len(pseudo):
            return 1.0
        return pseudo.scores.mean()

    def _term_weight(self, name):
        """Weight of one of the detector's losses, by its name."""
        box = any(x in name for x in ("box_reg", "_loc", "_ctr"))
        if "rpn" in name:
            return self.weights.rpn_loc if box else self.weights.rpn_cls
        return self.weights.roi_loc if box else self.weights.roi_cls

    def predict(self, model, images, features=None):
        inputs = [{"image": x} for x in unnormalised(model, images)]
        if hasattr(model, "roi_heads"):
            return model.inference(inputs, do_postprocess=False)
        # the outputs have the size of the image
        return [x["instances"] for x in model(inputs)]


def _with_instances(model, images, labels):
    return [{"image": x, "instances": y} for x, y in zip(unnormalised(model, images), labels)]


def _instances(pseudo):
    """Pseudo-boxes as labels that a detector trains on."""
    kept = type(pseudo)(pseudo.image_size)
    kept.gt_boxes, kept.gt_classes = pseudo.gt_boxes, pseudo.gt_classes
    return kept
