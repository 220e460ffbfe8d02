"""The teacher's pass over whole target images: boxes, pixel labels, its opinion of regions (MIC, Sec. 3.3)."""

from dataclasses import dataclass, field
from typing import Callable, Optional

import torch
from detectron2.structures import Boxes, ImageList
from detectron2.utils.events import get_event_storage
from torch import nn

from .pseudo_labels import select_pseudo_boxes
from .regions import region_scores
from .sections import section
from .segmentation import teacher_pixel_labels


@dataclass
class TeacherLabels:
    """What the teacher sees in N whole target images, in the frame of ``x["image"]``.

    ``boxes`` are N ``Instances`` (``gt_boxes``, ``gt_classes``, ``scores``); ``background_prob`` takes N box tensors
    (R_i, 4) and returns N tensors (R_i,), the probability that nothing is in a region; ``pixels`` are N
    ``PixelLabels`` and ``quality`` their q. What the model has no head for is empty or None.
    """

    boxes: list = field(default_factory=list)
    background_prob: Optional[Callable] = None
    pixels: list = field(default_factory=list)
    quality: list = field(default_factory=list)


def preprocess(model, batched_inputs):
    """Normalised, padded ``ImageList`` of a detector or of a ``SemanticSegmentor``, which lacks the method."""
    if hasattr(model, "preprocess_image"):
        return model.preprocess_image(batched_inputs)
    images = [(x["image"].to(model.device) - model.pixel_mean) / model.pixel_std for x in batched_inputs]
    return ImageList.from_tensors(
        images, model.backbone.size_divisibility, padding_constraints=model.backbone.padding_constraints
    )


@torch.no_grad()
def teacher_labels(teacher, batched_inputs, select, input_size=0, sem_seg=None):
    """Pseudo-labels for whole target images.

    Args:
        teacher (nn.Module): a detector or segmentation model in eval mode.
        batched_inputs (list[dict]): mapped target images; with ``"valid_pixels"`` (H, W), others have weight 0.
        select (dict): arguments of :func:`select_pseudo_boxes`.
        input_size (int): short side in pixels at which the teacher sees them; 0 = as they are.
        sem_seg (SemSegSettings): of pixel labels.

    Returns:
        TeacherLabels
    """
    inputs, scales = _inputs_at(batched_inputs, input_size, teacher.device)
    images = preprocess(teacher, inputs)
    features = teacher.backbone(images.tensor)
    sizes = [tuple(x["image"].shape[-2:]) for x in batched_inputs]
    found = TeacherLabels()
    if getattr(teacher, "roi_heads", None) is not None:
        found.boxes = _boxes(teacher, images, features, sizes, scales, select)
        found.background_prob = _background_prob(teacher, features, scales)
    if getattr(teacher, "sem_seg_head", None) is not None:
        with section("pseudo-labels"):
            found.pixels, found.quality = teacher_pixel_labels(
                teacher.sem_seg_head, features, images.image_sizes, sizes, sem_seg,
                [x.get("valid_pixels") for x in batched_inputs],
            )  # fmt: skip
    return found


def _boxes(teacher, images, features, sizes, scales, select):
    proposals, _ = teacher.proposal_generator(images, features, None)
    detections, _ = teacher.roi_heads(images, features, proposals, None)
    pseudo = []
    for size, result, (sx, sy) in zip(sizes, detections, scales):
        result.pred_boxes.scale(1 / sx, 1 / sy)
        result._image_size = size
        with section("pseudo-labels"):
            pseudo.append(select_pseudo_boxes(result, **select))
    return pseudo


def _background_prob(teacher, features, scales):
    @torch.no_grad()
    def background_prob(boxes):
        boxes = [Boxes(b * b.new_tensor([sx, sy, sx, sy])) for b, (sx, sy) in zip(boxes, scales)]
        logits, _ = region_scores(teacher.roi_heads, features, boxes)
        return logits.softmax(dim=1)[:, -1].split([len(b) for b in boxes])

    return background_prob


def _inputs_at(batched_inputs, input_size, device):
    """Target images at the teacher's input size, and the factors (x, y) from the student's view."""
    inputs, scales = [], []
    for x in batched_inputs:
        image = x["image"]
        height, width = image.shape[-2:]
        if input_size:
            factor = input_size / min(height, width)
            size = (round(height * factor), round(width * factor))
            image = nn.functional.interpolate(
                image[None].to(device).float(), size=size, mode="bilinear", antialias=True
            )[0]
        inputs.append({"image": image})
        scales.append((image.shape[-1] / width, image.shape[-2] / height))
    return inputs, scales


def log_pseudo_boxes(pseudo, num_classes, class_names=()):
    """Numbers of a step's pseudo-boxes, a target image, in all and a class; their mean score."""
    storage = get_event_storage()
    counts = [len(x) for x in pseudo]
    storage.put_scalar("pseudo/num_boxes", sum(counts) / len(counts))
    storage.put_scalar("pseudo/empty_images", counts.count(0) / len(counts))
    classes = torch.cat([x.gt_classes for x in pseudo])
    per_class = (classes == torch.arange(num_classes, device=classes.device)[:, None]).sum(dim=1)
    mean_score = torch.cat([x.scores for x in pseudo]).mean()  # NaN where there is none
    *per_class, mean_score = torch.cat([per_class, mean_score[None]]).tolist()  # one transfer for all
    if sum(counts):
        storage.put_scalar("pseudo/mean_score", mean_score)
    for i, count in enumerate(per_class):
        name = class_names[i] if i < len(class_names) else i
        storage.put_scalar(f"pseudo/num_boxes_{name}", count / len(counts), smoothing_hint=False)
