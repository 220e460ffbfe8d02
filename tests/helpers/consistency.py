"""A plain student, its masked views, and L_M of them."""

import torch
from detectron2.modeling import build_model

from mic_det.modeling.tasks.region_consistency import masked_consistency_losses
from mic_det.modeling.tasks.region_sampling import MaskedViews

from .models import random_image, tiny_cfg

# kinds of box regression losses of the RPN and the box head
GIOU = {"MODEL__RPN__BBOX_REG_LOSS_TYPE": "giou", "MODEL__ROI_BOX_HEAD__BBOX_REG_LOSS_TYPE": "giou"}
DIOU = {"MODEL__RPN__BBOX_REG_LOSS_TYPE": "diou", "MODEL__ROI_BOX_HEAD__BBOX_REG_LOSS_TYPE": "ciou",
        "MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True}  # fmt: skip
SMOOTH = {"MODEL__RPN__SMOOTH_L1_BETA": 0.11, "MODEL__ROI_BOX_HEAD__SMOOTH_L1_BETA": 1.0}


def student_of(**overrides):
    return build_model(tiny_cfg(MODEL__META_ARCHITECTURE="GeneralizedRCNN", **overrides)).train()


def views_of(student, targets, used=None, background_prob=None, true_labels=None, **more):
    images = student.preprocess_image([{"image": random_image(seed=i)} for i in range(len(targets))])
    for x in targets:
        x.gt_scores = x.gt_scores if x.has("gt_scores") else torch.ones(len(x))
    used = used or [True] * len(targets)
    return MaskedViews(images, student.backbone(images.tensor), targets, used, background_prob, true_labels, **more)


def supervised(student, targets, seed=11):
    """Detectron2's own losses on the same images."""
    torch.manual_seed(seed)
    return student([{"image": random_image(seed=i), "instances": x} for i, x in enumerate(targets)])


def masked(student, targets, weights, seed=11, **kwargs):
    views = views_of(student, targets, **kwargs)
    torch.manual_seed(seed)
    return masked_consistency_losses(student, views, weights)
