"""Adversarial alignment of two domains (L_T): the losses of the domain classifiers.

Scale-aware domain-adaptive Faster R-CNN (SADA; Chen, Wang, Li, Sakaridis, Dai, Van Gool, IJCV 2021), the
detector that MIC's published detection result adapts: a classifier for each feature map, one for
the regions of each level, and the agreement of the two. The schedule ``dann`` is that of Ganin and Lempitsky,
"Unsupervised Domain Adaptation by Backpropagation", ICML 2015.
"""

import logging
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from torch import nn

from ..errors import ConfigError
from .domain_classifiers import ImageClassifiers, InstanceClassifiers
from .regions import box_feature_size, box_pooler
from .tasks import RCNNTask

logger = logging.getLogger(__name__)


@dataclass
class AlignmentPart:
    """Weight of a part's loss, and the factor at which its gradient is reversed on its way to the student."""

    weight: float
    reversal_weight: float


class DomainAlignment(nn.Module):
    """L_T: makes the student's features of both domains similar, for images, for regions, and for their agreement.

    Both domains have the same weight in every mean, whatever their numbers of images or regions. Where one domain is
    absent, all losses and their gradients are 0.
    """

    def __init__(
        self,
        *,
        image=None,
        instance=None,
        agreement=None,
        image_classifiers=None,
        instance_classifiers=None,
        strides=None,
        pooler=None,
        pooler_features=(),
        schedule="constant",
        ramp_steps=1,
        regions="same",
        regions_per_image=512,
    ):
        """
        Args:
            image, instance, agreement (AlignmentPart): the parts. None = without this part.
            image_classifiers (ImageClassifiers), instance_classifiers (InstanceClassifiers): of the first two parts.
            strides (dict[str, int]): pixels per position of each feature map that is aligned.
            pooler (ROIPooler), pooler_features (tuple[str]): the student's box pooler, and its feature maps.
            schedule (str), ramp_steps (int): of the reversal weights, "constant" or "dann".
            regions (str): the regions of the instance part. "same" = random proposals in both domains. "published" =
                in the source, the proposals that L_S has sampled by their labels.
            regions_per_image (int): number of random proposals per image.
        """
        super().__init__()
        self.image, self.instance, self.agreement = image, instance, agreement
        self.image_classifiers = image_classifiers
        self.instance_classifiers = instance_classifiers
        self.strides = strides or {}
        self.pooler_features = tuple(pooler_features)
        if pooler is not None:
            self._levels = dict(
                min_level=pooler.min_level, max_level=pooler.max_level,
                canonical_box_size=pooler.canonical_box_size, canonical_level=pooler.canonical_level,
            )  # fmt: skip
        if agreement is not None:
            self.map_pooler = ROIPooler(
                output_size=1, scales=[x.spatial_scale for x in pooler.level_poolers], sampling_ratio=0,
                pooler_type="ROIAlignV2", canonical_box_size=pooler.canonical_box_size,
                canonical_level=pooler.canonical_level,
            )  # fmt: skip
        self.shares_source_regions = instance is not None and regions == "published"
        self.schedule = schedule
        self.ramp_steps = ramp_steps
        self.regions_per_image = regions_per_image

    @classmethod
    def from_config(cls, cfg, student):
        """The alignment of ``MODEL.MIC.ALIGNMENT`` for a student, or None where no part is enabled.

        Raises:
            ConfigError: where it names feature maps that the backbone or the classifiers lack.
        """
        a = cfg.MODEL.MIC.ALIGNMENT
        parts = {
            name.lower(): AlignmentPart(a[name].WEIGHT, a[name].GRL_WEIGHT)
            for name in ("IMAGE", "INSTANCE", "AGREEMENT")
            if a[name].ENABLED and a[name].WEIGHT
        }
        if not parts:
            return None
        if a.VIEW != "whole":
            logger.warning(
                "MODEL.MIC.ALIGNMENT.VIEW %r is no longer an option: source images are never masked, so the patches "
                "told the domains apart. Whole target images are aligned: remove the key, or set it to 'whole'.",
                a.VIEW,
            )
        if not RCNNTask.applies_to(student):
            heads = getattr(student, "roi_heads", None)
            what = type(student).__name__ + (f" with {type(heads).__name__}" if heads is not None else "")
            raise ConfigError(
                f"MODEL.MIC.ALIGNMENT is for detectors with a Faster R-CNN's regions; MODEL.MIC.STUDENT is {what}: "
                "disable it."
            )
        shapes = student.backbone.output_shape()
        pooler, pooler_features = box_pooler(student.roi_heads)
        kwargs = {}
        if "image" in parts:
            names = tuple(a.IMAGE.FEATURES) or tuple(shapes)
            _check_features(names, shapes, pooler_features if "agreement" in parts else ())
            kwargs["image_classifiers"] = ImageClassifiers({f: shapes[f].channels for f in names}, a.IMAGE.CHANNELS)
            kwargs["strides"] = {f: shapes[f].stride for f in names}
        if "instance" in parts:
            kwargs["instance_classifiers"] = InstanceClassifiers(
                len(pooler.level_poolers), box_feature_size(student.roi_heads), a.INSTANCE.FC_DIM, a.INSTANCE.DROPOUT
            )
        return cls(
            **parts, **kwargs, pooler=pooler, pooler_features=pooler_features, schedule=a.SCHEDULE,
            ramp_steps=a.RAMP_STEPS or cfg.SOLVER.MAX_ITER, regions=a.INSTANCE.REGIONS,
            regions_per_image=a.INSTANCE.REGIONS_PER_IMAGE or cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE,
        )  # fmt: skip

    def ramp(self, step):
        """Factor of all reversal weights at an optimizer step: 1, or DANN's 2 / (1 + exp(-10 p)) - 1."""
        if self.schedule == "constant":
            return 1.0
        return 2 / (1 + math.exp(-10 * min(1.0, step / self.ramp_steps))) - 1

    def assign_levels(self, boxes):
        """Level index (R,) of each region of N ``Boxes``, as the student's box pooler assigns them."""
        if len(self.instance_classifiers.levels) == 1:
            return torch.zeros(sum(map(len, boxes)), dtype=torch.int64, device=boxes[0].device)
        return assign_boxes_to_levels(boxes, **self._levels)

    def forward(self, image_sizes, features, is_target, regions=None, step=0):
        """
        Args:
            image_sizes (list[(int, int)]): height and width of N images, without padding.
            features (dict): their feature maps (N, C, H, W) of the student's backbone.
            is_target (list[bool]): N, the domain of each.
            regions (Regions): of the same N images, for the instance part.
            step (int): optimizer steps taken so far.

        Returns:
            (dict[str, Tensor], dict[str, Tensor]): the losses of the parts (``loss_image``, ``loss_instance``,
            ``loss_consistency``), and the accuracy of each classifier (``accuracy_image_p2``, ...), which is NaN where
            one domain is absent.
        """
        ramp = self.ramp(step)
        device = next(iter(features.values())).device
        target = torch.tensor(is_target, device=device)
        losses, accuracies = {}, {}
        if self.image is not None:
            loss, accuracy = self._image_loss(features, image_sizes, target, ramp)
            losses["loss_image"] = loss * self.image.weight
            accuracies.update(accuracy)
        if self.instance is not None:
            levels = self.assign_levels(regions.boxes)
            counts = torch.tensor([len(b) for b in regions.boxes], device=device)
            of_target = target.repeat_interleave(counts)
            logits = self.instance_classifiers(regions.features, levels, self.instance.reversal_weight * ramp)
            loss = F.binary_cross_entropy_with_logits(logits, of_target.float(), reduction="none")
            losses["loss_instance"] = (loss * domain_weights(of_target)).sum() * self.instance.weight
            for level in range(len(self.instance_classifiers.levels)):
                accuracies[f"accuracy_instance_{self.pooler_features[level]}"] = _balanced_accuracy(
                    (logits > 0) == of_target, of_target, (levels == level).float()
                )
        if self.agreement is not None:
            difference = self._disagreement(features, regions, levels, ramp)
            losses["loss_consistency"] = (difference * domain_weights(of_target)).sum() * self.agreement.weight
        return losses, accuracies

    def _image_loss(self, features, image_sizes, target, ramp):
        maps = {f: features[f] for f in self.strides}
        logits = self.image_classifiers(maps, self.image.reversal_weight * ramp)
        weights = domain_weights(target)
        losses, accuracies = [], {}
        for name, x in logits.items():
            inside = _inside(image_sizes, x.shape[-2:], self.strides[name], x.device)
            truth = target.float()[:, None, None, None].expand_as(x)
            loss = F.binary_cross_entropy_with_logits(x, truth, reduction="none")
            share = inside / inside.sum(dim=(1, 2, 3), keepdim=True)
            losses.append(((loss * share).sum(dim=(1, 2, 3)) * weights).sum())
            right = ((x > 0) == (truth > 0)).float()
            accuracies[f"accuracy_image_{name}"] = _balanced_accuracy((right * share).sum(dim=(1, 2, 3)), target)
        return torch.stack(losses).mean(), accuracies

    def _disagreement(self, features, regions, levels, ramp):
        """|p_img pooled over a region - p_ins| (R,); its gradient has a reversal weight of its own."""
        relative = self.agreement.reversal_weight * ramp
        maps = {f: features[f] for f in self.pooler_features}
        image = self.image_classifiers(maps, self.image.reversal_weight * relative)
        pooled = self.map_pooler([image[f].sigmoid() for f in self.pooler_features], regions.boxes).flatten()
        instance = self.instance_classifiers(regions.features, levels, self.instance.reversal_weight * relative)
        return (pooled - instance.sigmoid()).abs()


def domain_weights(is_target):
    """Weights (N,) that sum to 1, half of it for each domain; all 0 where one domain is absent."""
    t = is_target.float()
    num_target, num_source = t.sum(), (1 - t).sum()
    present = ((num_target > 0) & (num_source > 0)).float()
    return present * 0.5 * (t / num_target.clamp(min=1) + (1 - t) / num_source.clamp(min=1))


def _balanced_accuracy(right, is_target, selected=1.0):
    """Mean over the two domains of the share that is right among ``selected``; NaN where one is absent."""
    right = right.float()
    shares = [(right * d * selected).sum() / (d * selected).sum() for d in (is_target.float(), (~is_target).float())]
    return (shares[0] + shares[1]).detach() / 2


def _inside(image_sizes, map_size, stride, device):
    """1 where a position of a feature map looks at the image, 0 over padding: (N, 1, H, W)."""
    inside = torch.zeros(len(image_sizes), 1, *map_size, device=device)
    for row, (h, w) in zip(inside, image_sizes):
        row[:, : math.ceil(h / stride), : math.ceil(w / stride)] = 1
    return inside


def _check_features(names, shapes, needed):
    unknown = [f for f in names if f not in shapes]
    if unknown:
        raise ConfigError(
            f"MODEL.MIC.ALIGNMENT.IMAGE.FEATURES names {unknown[0]!r}: the backbone has {', '.join(shapes)}."
        )
    missing = [f for f in needed if f not in names]
    if missing:
        raise ConfigError(
            f"MODEL.MIC.ALIGNMENT.AGREEMENT compares with the image classifier of {missing[0]!r}, where the box head "
            "pools: add it to MODEL.MIC.ALIGNMENT.IMAGE.FEATURES (or leave that empty for all)."
        )
