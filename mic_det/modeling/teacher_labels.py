"""The teacher's pass over whole target images: pseudo-boxes, and its opinion of any region (MIC, Sec. 3.3)."""

import torch
from detectron2.structures import Boxes
from detectron2.utils.events import get_event_storage
from torch import nn

from .pseudo_labels import select_pseudo_boxes
from .regions import region_scores


@torch.no_grad()
def teacher_pseudo_boxes(teacher, batched_inputs, input_size=0, **select):
    """Pseudo-boxes for whole target images, in the frame of ``x["image"]``.

    Args:
        teacher (nn.Module): an R-CNN in eval mode.
        batched_inputs (list[dict]): mapped target images.
        input_size (int): short side in pixels at which the teacher sees them; 0 = as they are.
        **select: arguments of :func:`select_pseudo_boxes`.

    Returns:
        (list[Instances], callable): pseudo-boxes of each image, and a function from one box
        tensor (R_i, 4) an image to the teacher's background probability (R_i,) of each region.
    """
    inputs, scales = _inputs_at(batched_inputs, input_size, teacher.device)
    images = teacher.preprocess_image(inputs)
    features = teacher.backbone(images.tensor)
    proposals, _ = teacher.proposal_generator(images, features, None)
    detections, _ = teacher.roi_heads(images, features, proposals, None)
    pseudo = []
    for x, result, (sx, sy) in zip(batched_inputs, detections, scales):
        result.pred_boxes.scale(1 / sx, 1 / sy)
        result._image_size = tuple(x["image"].shape[-2:])
        pseudo.append(select_pseudo_boxes(result, **select))

    @torch.no_grad()
    def background_prob(boxes):
        boxes = [Boxes(b * b.new_tensor([sx, sy, sx, sy])) for b, (sx, sy) in zip(boxes, scales)]
        logits, _ = region_scores(teacher.roi_heads, features, boxes)
        return logits.softmax(dim=1)[:, -1].split([len(b) for b in boxes])

    return pseudo, background_prob


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
    if sum(counts):
        storage.put_scalar("pseudo/mean_score", torch.cat([x.scores for x in pseudo]).mean())
    classes = torch.cat([x.gt_classes for x in pseudo])
    per_class = torch.bincount(classes, minlength=num_classes).tolist()
    for i, count in enumerate(per_class):
        name = class_names[i] if i < len(class_names) else i
        storage.put_scalar(f"pseudo/num_boxes_{name}", count / len(counts), smoothing_hint=False)
