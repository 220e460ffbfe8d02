"""A segmentation model that predicts large images window by window."""

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, SemanticSegmentor
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList

from .windows import place, window_boxes


@META_ARCH_REGISTRY.register()
class SlidingSegmentor(SemanticSegmentor):
    """Detectron2's ``SemanticSegmentor``; in evaluation it averages the logits of overlapping windows."""

    @configurable
    def __init__(self, *, window=(), stride=(), **others):
        """
        Args:
            window ((int, int)): height and width in pixels; () = the whole image at once.
            stride ((int, int)): from one window to the next; () = half of it.
            others: of ``SemanticSegmentor``.
        """
        super().__init__(**others)
        self.window = tuple(window)
        self.stride = tuple(stride) or tuple(max(x // 2, 1) for x in self.window)

    @classmethod
    def from_config(cls, cfg):
        keys = cfg.MODEL.SLIDING
        return {**super().from_config(cfg), "window": keys.SIZE, "stride": keys.STRIDE}

    def forward(self, batched_inputs):
        """See Detectron2."""
        if self.training or not self.window:
            return super().forward(batched_inputs)
        outputs = []
        for x in batched_inputs:
            image = (x["image"].to(self.device) - self.pixel_mean) / self.pixel_std
            size = image.shape[-2:]
            logits = self.predict(image)
            height, width = x.get("height", size[0]), x.get("width", size[1])
            outputs.append({"sem_seg": sem_seg_postprocess(logits, size, height, width)})
        return outputs

    def predict(self, image):
        """Logits (K, H, W) of a normalised image (3, H, W); a window at a time, for the memory's sake."""
        boxes = window_boxes(image.shape[-2:], self.window, self.stride)
        parts = [self._window(image[:, y1:y2, x1:x2]) for y1, x1, y2, x2 in boxes]
        return place(torch.stack(parts)[None], torch.tensor([boxes]), image.shape[-2:])[0]

    def _window(self, image):
        padded = ImageList.from_tensors(
            [image], self.backbone.size_divisibility, padding_constraints=self.backbone.padding_constraints
        )
        logits, _ = self.sem_seg_head(self.backbone(padded.tensor))
        return logits[0, :, : image.shape[1], : image.shape[2]]
