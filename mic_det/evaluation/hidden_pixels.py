"""How much a detector still finds when part of the image is hidden: what it knows from context (MIC, Sec. 4.4)."""

import math
import zlib

import torch
from detectron2.evaluation import inference_on_dataset
from detectron2.structures import BoxMode
from torch import nn

from ..modeling import MIC
from ..modeling.masking import PatchMask, random_patch_mask


class HiddenPixels(nn.Module):
    """A detector that sees only part of its images' pixels; in evaluation mode alone.

    Hidden pixels get the mean colour, which is 0 once the detector has normalised the image. Which ones are
    hidden, a subclass says by ``visible``.
    """

    def __init__(self, model):
        """
        Args:
            model (nn.Module): a detector of Detectron2, or MIC.
        """
        super().__init__()
        self.model = model
        self.training = model.training  # Detectron2 restores the mode that it finds here, in the model too

    def forward(self, batched_inputs):
        """As the detector's own."""
        return self.model([self.hide(x) for x in batched_inputs])

    def hide(self, batched_input):
        """The same dict with a float image (3, H, W) in which pixels are hidden."""
        detector = self.model.student if isinstance(self.model, MIC) else self.model
        mean = detector.pixel_mean.view(-1, 1, 1)
        image = batched_input["image"].to(mean.device).float()
        visible = self.visible(batched_input).to(mean.device)
        return {**batched_input, "image": torch.where(visible, image, mean)}

    def visible(self, batched_input):
        """(H, W) bool: the pixels of ``batched_input["image"]`` that are shown."""
        raise NotImplementedError


class HiddenPatches(HiddenPixels):
    """Random patches are hidden.

    An image's mask depends on its id, so all detectors see the same, and a larger ratio hides the same
    patches and more.
    """

    def __init__(self, model, block_size, ratio, block_share=0.04):
        """
        Args:
            block_size (int): patch side in pixels of the detector's input; 0 = ``block_share`` says it.
            ratio (float): share of hidden patches, in [0, 1).
            block_share (float): patch side as a share of the input's short side.
        """
        super().__init__(model)
        self.mask = PatchMask(block_size, ratio, block_share)

    def visible(self, batched_input):
        size = tuple(batched_input["image"].shape[-2:])
        generator = torch.Generator().manual_seed(zlib.crc32(str(batched_input["image_id"]).encode()))
        block_size = self.mask.block_size_of(min(size))
        return random_patch_mask([size], size, block_size, self.mask.ratio, generator=generator)[0, 0] > 0


class TrueBoxesShown(HiddenPixels):
    """Everything outside the true boxes is hidden: a detector gets objects without their context.

    With ``inside=False`` it is the boxes that are hidden, and what is found is guessed from the context. In both,
    the rims of the boxes are edges in the picture that tell where objects are: numbers say how much a detector
    loses, not what it would make of the objects in another place.
    """

    def __init__(self, model, boxes, inside=True):
        """
        Args:
            boxes (dict): image id -> (N, 4) XYXY pixels of the image's file; see :func:`true_boxes`.
            inside (bool): show what is in the boxes, or what is outside of them.
        """
        super().__init__(model)
        self.boxes, self.inside = boxes, inside

    def visible(self, batched_input):
        height, width = batched_input["image"].shape[-2:]
        scale_x = width / batched_input.get("width", width)
        scale_y = height / batched_input.get("height", height)
        covered = torch.zeros(height, width, dtype=torch.bool)
        for x0, y0, x1, y1 in self.boxes[batched_input["image_id"]].tolist():
            rows = slice(max(0, math.floor(y0 * scale_y)), max(0, math.ceil(y1 * scale_y)))
            covered[rows, max(0, math.floor(x0 * scale_x)) : max(0, math.ceil(x1 * scale_x))] = True
        return covered if self.inside else ~covered


def true_boxes(dicts):
    """Image id -> (N, 4) float XYXY boxes of a labelled set's dicts, groups (crowds) among them."""
    found = {}
    for d in dicts:
        boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in d.get("annotations", ())]
        found[d["image_id"]] = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    return found


def evaluate_hidden(views, loader, evaluator, after_image=lambda: None):
    """What evaluation finds of several views of one labelled set.

    Args:
        views (sequence of HiddenPixels): of one model, or of several.
        loader (callable): makes Detectron2's test loader of a labelled set.
        evaluator (DatasetEvaluator): of this set; boxes, pixels or both.
        after_image (callable): called after each batch of the loader.

    Returns:
        dict[str, list]: "AP50", "AP50-CLASS", "mIoU", ..., one value a view in per cent; None where undefined.
    """
    results = {}
    for view in views:
        found = inference_on_dataset(view, loader(), evaluator, {"after_inference": after_image})
        for task in ("bbox", "sem_seg"):
            for name, value in found.get(task, {}).items():
                results.setdefault(name, []).append(value if math.isfinite(value) else None)
    return results
