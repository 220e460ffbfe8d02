"""Detectron2's FCOS with config keys: by itself, it is built from Python alone."""

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.meta_arch import fcos


@META_ARCH_REGISTRY.register()
class FCOS(fcos.FCOS):
    """FCOS (Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019) of ``MODEL.FCOS``."""

    @configurable
    def __init__(self, *, input_format="BGR", **others):
        """
        Args:
            input_format (str): order of the images' channels.

        The others are those of Detectron2's class.
        """
        super().__init__(**others)
        self.input_format = input_format

    @classmethod
    def from_config(cls, cfg):
        keys = cfg.MODEL.FCOS
        backbone = build_backbone(cfg)
        shapes = [backbone.output_shape()[name] for name in keys.IN_FEATURES]
        head = fcos.FCOSHead(
            input_shape=shapes, num_classes=keys.NUM_CLASSES, conv_dims=[shapes[0].channels] * keys.NUM_CONVS,
            norm=keys.NORM, prior_prob=keys.PRIOR_PROB,
        )  # fmt: skip
        return {
            "backbone": backbone,
            "head": head,
            "head_in_features": keys.IN_FEATURES,
            "num_classes": keys.NUM_CLASSES,
            "center_sampling_radius": keys.CENTER_SAMPLING_RADIUS,
            "focal_loss_alpha": keys.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": keys.FOCAL_LOSS_GAMMA,
            "test_score_thresh": keys.SCORE_THRESH_TEST,
            "test_topk_candidates": keys.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": keys.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
        }
