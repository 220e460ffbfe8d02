"""How much a detector still finds when patches of the image are hidden: what it knows from context (MIC, Sec. 4.4)."""

import math
import zlib

import torch
from detectron2.evaluation import inference_on_dataset
from torch import nn

from ..modeling import MICRCNN
from ..modeling.masking import random_patch_mask


class HiddenPatches(nn.Module):
    """A detector that sees its images through a patch mask; in evaluation mode alone.

    Hidden pixels get the mean colour, which is 0 once the detector has normalised the image. An image's mask
    depends on its id, so all detectors see the same, and a larger ratio hides the same patches and more.
    """

    def __init__(self, model, block_size, ratio):
        """
        Args:
            model (nn.Module): a detector of Detectron2, or MICRCNN.
            block_size (int): patch side in pixels of the detector's input.
            ratio (float): share of hidden patches, in [0, 1).
        """
        super().__init__()
        self.model, self.block_size, self.ratio = model, block_size, ratio
        self.training = model.training  # Detectron2 restores the mode that it finds here, in the model too

    def forward(self, batched_inputs):
        """As the detector's own."""
        return self.model([self.hide(x) for x in batched_inputs])

    def hide(self, batched_input):
        """The same dict with a float image (3, H, W) in which patches are hidden."""
        detector = self.model.student if isinstance(self.model, MICRCNN) else self.model
        mean = detector.pixel_mean.view(-1, 1, 1)
        image = batched_input["image"].to(mean.device).float()
        size = tuple(image.shape[-2:])
        generator = torch.Generator().manual_seed(zlib.crc32(str(batched_input["image_id"]).encode()))
        mask = random_patch_mask(
            [size], size, self.block_size, self.ratio, generator=generator, device=image.device
        )  # fmt: skip
        return {**batched_input, "image": torch.where(mask[0] > 0, image, mean)}


def evaluate_hidden(model, loader, evaluator, block_size, ratios, after_image=lambda: None):
    """What evaluation finds of one model for each share of hidden patches.

    Args:
        loader (callable): makes Detectron2's test loader of a labelled set.
        evaluator (DatasetEvaluator): of this set; boxes, pixels or both.
        ratios (sequence of float): in [0, 1).
        after_image (callable): called after each batch of the loader.

    Returns:
        dict[str, list]: "AP50", "AP50-CLASS", "mIoU", ..., one value a ratio in per cent; None where undefined.
    """
    results = {}
    for ratio in ratios:
        hidden = HiddenPatches(model, block_size, ratio)
        callbacks = {"after_inference": after_image}
        found = inference_on_dataset(hidden, loader(), evaluator, callbacks)
        for task in ("bbox", "sem_seg"):
            for name, value in found.get(task, {}).items():
                results.setdefault(name, []).append(value if math.isfinite(value) else None)
    return results
