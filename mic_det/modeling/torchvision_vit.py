"""Torchvision's vision transformers as backbones of image classifiers."""

import torchvision
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn

from ..errors import ConfigError
from .stages import IMAGENET_MEAN, IMAGENET_STD

FEATURE = "class_token"


class TorchvisionViT(Backbone):
    """A ViT whose one output is the class token after the last norm, as a map (N, C, 1, 1).

    Parameters keep torchvision's names below ``body``, so that torchvision's state dicts fit.

    Attributes:
        library, pixel_mean, pixel_std: as those of :class:`~mic_det.modeling.stages.Stages`.
    """

    library, pixel_mean, pixel_std = "torchvision", IMAGENET_MEAN, IMAGENET_STD

    def __init__(self, name, image_size):
        """
        Args:
            name (str): vit_b_16, vit_l_16, ...
            image_size (int): side of the images in pixels; position embeddings are made for it.

        Raises:
            ConfigError: for another model, or a side that is no multiple of the patch size.
        """
        super().__init__()
        try:
            if not name.startswith("vit_"):
                raise ValueError("its name does not begin with vit_")
            self.body = torchvision.models.get_model(name, weights=None, image_size=image_size)
        except (ValueError, AssertionError, RuntimeError) as e:
            raise ConfigError(
                f"MODEL.TORCHVISION.NAME {name!r} with INPUT.IMAGE_CLASS.CROP {image_size} is no vision transformer of "
                f"torchvision ({' '.join(str(e).split())}): use vit_b_16 and a multiple of its patch size."
            ) from e
        self.body.heads = nn.Identity()
        self._shape = ShapeSpec(channels=self.body.hidden_dim, stride=image_size)

    def forward(self, x):
        """(N, 3, H, W) normalised images -> ``{"class_token": (N, C, 1, 1)}``."""
        return {FEATURE: self.body(x)[:, :, None, None]}

    def output_shape(self):
        return {FEATURE: self._shape}


@BACKBONE_REGISTRY.register()
def build_torchvision_vit_backbone(cfg, input_shape):
    """The class token of ``MODEL.TORCHVISION.NAME``, for an ImageClassifier."""
    return TorchvisionViT(cfg.MODEL.TORCHVISION.NAME, cfg.INPUT.IMAGE_CLASS.CROP)
