"""ImageNet weights for the frozen encoder that the feature distance compares the student's with."""

import torch
from detectron2.config import CfgNode
from torch import nn

from ..errors import CheckpointError, ConfigError
from ..modeling.terms import FeatureDistance
from .checkpointer import MICCheckpointer

KEY = "MODEL.MIC.FEATURE_DISTANCE.WEIGHTS"


def load_reference(cfg: CfgNode, model: nn.Module) -> None:
    """Fill the frozen encoder of a model's :class:`FeatureDistance`; nothing where it has no such term.

    Args:
        cfg (CfgNode): ``MODEL.MIC.FEATURE_DISTANCE.WEIGHTS``, or else ``MODEL.WEIGHTS``, is the file.
        model (MIC): is changed in place.

    Raises:
        ConfigError: where no file is named.
        CheckpointError: where it cannot be loaded, or holds a trained model and not an encoder alone.
    """
    for term in getattr(model, "terms", ()):
        if isinstance(term, FeatureDistance):
            path = cfg.MODEL.MIC.FEATURE_DISTANCE.WEIGHTS or cfg.MODEL.WEIGHTS
            if not path:
                raise ConfigError(
                    f"MODEL.MIC.FEATURE_DISTANCE needs ImageNet weights, but neither {KEY} nor MODEL.WEIGHTS names a "
                    "file of them."
                )
            encoder = _Encoder(term.reference, model.student)
            _EncoderCheckpointer(encoder, min_matched_keys=max(cfg.MODEL.BACKBONE.MIN_MATCHED_KEYS, 0.5)).load(path)
            term.filled = True


class _Encoder(nn.Module):
    """An encoder in the place where a detector has it, for code that loads weights into detectors."""

    def __init__(self, backbone, model):
        super().__init__()
        self.backbone = backbone
        self.register_buffer("pixel_mean", model.pixel_mean, False)
        self.register_buffer("pixel_std", model.pixel_std, False)


class _EncoderCheckpointer(MICCheckpointer):
    def _load_checked(self, checkpoint, path):
        trained = [k for k in checkpoint["model"] if "sem_seg_head." in k or "roi_heads." in k]
        if trained:
            raise CheckpointError(
                f"{path} is a trained model, not an encoder with ImageNet weights: the feature distance would keep the "
                f"student at what was trained. Give {KEY} the file of ImageNet weights."
            )
        state = checkpoint["model"]
        if not all(isinstance(v, torch.Tensor) for v in state.values()):
            raise CheckpointError(f"{path} holds no weights of an encoder.")
        return super()._load_checked(checkpoint, path)
