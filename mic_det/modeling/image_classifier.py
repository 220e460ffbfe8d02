"""A classifier of whole images: backbone, bottleneck and linear classifier."""

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.structures import ImageList
from torch import nn

EMBEDDING = "embedding"  # name of the one feature that tasks and terms see
NORMS = {"BN": nn.BatchNorm1d, "LN": nn.LayerNorm}


@META_ARCH_REGISTRY.register()
class ImageClassifier(nn.Module):
    """One class for each image.

    The last map of the backbone is pooled to its mean. The bottleneck makes the embedding of it, and the linear
    classifier predicts logits. This is the network of CDAN and SDAT.

    Attributes:
        label_kinds (tuple): the labels that it learns from; see ``mic_det.config.label_kinds``.
    """

    label_kinds = ("image_class",)

    @configurable
    def __init__(
        self, *, backbone, num_classes, bottleneck=256, norm="BN", pixel_mean, pixel_std, input_format="BGR"
    ):  # fmt: skip
        """
        Args:
            backbone (Backbone): the map of the largest stride is used.
            num_classes (int): K.
            bottleneck (int): length F of the embedding; 0 = the channels of the map.
            norm (str): of the bottleneck: "BN", "LN" or "".
            pixel_mean, pixel_std (sequence of 3 floats): in the order of ``input_format``.
            input_format (str): order of an image's channels.
        """
        super().__init__()
        self.backbone, self.input_format = backbone, input_format
        self.feature, shape = max(backbone.output_shape().items(), key=lambda x: x[1].stride)
        layers = []
        if bottleneck:
            layers = [nn.Linear(shape.channels, bottleneck), *([NORMS[norm](bottleneck)] if norm else []), nn.ReLU()]
        self.bottleneck = nn.Sequential(*layers)
        self.classifier = nn.Linear(bottleneck or shape.channels, num_classes)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg):
        keys = cfg.MODEL.IMAGE_CLASSIFIER
        return {
            "backbone": build_backbone(cfg),
            "num_classes": keys.NUM_CLASSES,
            "bottleneck": keys.BOTTLENECK,
            "norm": keys.NORM,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
        }

    @property
    def device(self):
        return self.pixel_mean.device

    def preprocess_image(self, batched_inputs):
        """Normalised ``ImageList`` of inputs. Images of one size are not padded."""
        images = [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        return ImageList.from_tensors(images)

    def encode(self, images):
        """Normalised images (N, 3, H, W) -> ``{"embedding": (N, F)}``."""
        pooled = self.backbone(images)[self.feature].mean(dim=(2, 3))
        return {EMBEDDING: self.bottleneck(pooled)}

    def logits(self, features):
        """The result of :meth:`encode` -> logits (N, K) in float32."""
        return self.classifier(features[EMBEDDING]).float()

    def forward(self, batched_inputs):
        """
        Args:
            batched_inputs (list[dict]): ``"image"`` (3, H, W); in training also ``"image_class"``, an int.

        Returns:
            In training, ``{"loss_class": Tensor}``, the cross entropy. Else one dict for each image, with the class
            probabilities ``"image_class"`` (K,).
        """
        logits = self.logits(self.encode(self.preprocess_image(batched_inputs).tensor))
        if not self.training:
            return [{"image_class": p} for p in logits.softmax(dim=1)]
        return {"loss_class": F.cross_entropy(logits, classes_of(batched_inputs, self.device))}


def classes_of(inputs, device):
    """The labels (N,) int64 of N labelled images."""
    return torch.tensor([x["image_class"] for x in inputs], dtype=torch.int64, device=device)
