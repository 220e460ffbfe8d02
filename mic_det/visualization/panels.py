"""Pictures of what the teacher and the student see in a target image."""

import cv2
import numpy as np
import torch
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.utils.events import EventStorage
from detectron2.utils.visualizer import Visualizer

# One colour a class, distinct and light enough to be read on a dark street (RGB, 0 to 1)
COLORS = np.array(
    [(220, 20, 60), (255, 140, 0), (30, 144, 255), (0, 206, 209), (50, 205, 50), (186, 85, 211), (255, 215, 0),
     (255, 105, 180)]
) / 255  # fmt: skip


def draw_boxes(image, boxes, classes, scores=None, class_names=()):
    """Draw labelled boxes.

    Args:
        image (ndarray): (H, W, 3) RGB uint8.
        boxes (array): (M, 4), XYXY pixels of ``image``.
        classes (sequence of int), scores (sequence of float or None).

    Returns:
        ndarray: (H', W', 3) RGB uint8, at least 800 pixels wide so that labels are legible.
    """
    scale = max(1.0, 800 / image.shape[1])
    names = [class_names[c] if c < len(class_names) else str(c) for c in classes]
    labels = names if scores is None else [f"{n} {s:.2f}" for n, s in zip(names, scores)]
    visualizer = Visualizer(image, scale=scale)
    colors = [COLORS[c % len(COLORS)] for c in classes]
    drawn = visualizer.overlay_instances(boxes=np.asarray(boxes).reshape(-1, 4), labels=labels, assigned_colors=colors)
    return drawn.get_image()


@torch.no_grad()
def mic_panels(model, batched_input, truth=None, generator=None, score_threshold=0.5, class_names=()):
    """What MICRCNN makes of one target image.

    Args:
        model (MICRCNN): in eval mode.
        batched_input (dict): one mapped target image; predictions and boxes are in the frame of ``"image"``.
        truth (Instances): true boxes in the same frame, where known.
        generator (torch.Generator): draws the mask.

    Returns:
        list[(str, ndarray)]: caption and RGB picture of each panel.
    """
    image = batched_input["image"]
    to_rgb = lambda x: convert_image_to_rgb(x.permute(1, 2, 0).cpu(), model.student.input_format)  # noqa: E731
    picture = to_rgb(image)
    with EventStorage():  # the teacher logs what it finds; a picture is not a training step
        (pseudo,), _ = model.make_pseudo_boxes([batched_input])
    masked = model.student.preprocess_image([{"image": model.strong_view(image.to(model.device))}])
    model.hide_patches(masked, generator)
    height, width = image.shape[-2:]
    view = masked.tensor[0, :, :height, :width] * model.student.pixel_std + model.student.pixel_mean
    view = to_rgb(view.clamp(0, 255).round().to(torch.uint8))
    prediction = model.inference([batched_input], do_postprocess=False)[0]
    prediction = prediction[0] if isinstance(prediction, list) else prediction  # beside pixels, of PanopticFPN
    prediction = prediction[prediction.scores >= score_threshold]
    panels = [
        ("target image", draw_boxes(picture, [], [])),
        ("masked view of the student", draw_boxes(view, [], [])),
        (f"teacher's pseudo-boxes ({len(pseudo)})",
         _draw(picture, pseudo, pseudo.gt_boxes, pseudo.gt_classes, class_names)),
        (f"prediction, score >= {score_threshold}",
         _draw(picture, prediction, prediction.pred_boxes, prediction.pred_classes, class_names)),
    ]  # fmt: skip
    if truth is not None:
        boxes = truth.gt_boxes.tensor.cpu().numpy()
        panels.append(("truth", draw_boxes(picture, boxes, truth.gt_classes.tolist(), None, class_names)))
    return panels


def _draw(picture, instances, boxes, classes, class_names):
    return draw_boxes(picture, boxes.tensor.cpu().numpy(), classes.tolist(), instances.scores.tolist(), class_names)


def contact_sheet(rows):
    """Join rows of captioned panels into one picture.

    Args:
        rows (list[list[(str, ndarray)]]): panels of one size (H, W, 3), RGB uint8.

    Returns:
        ndarray: RGB uint8; every panel has its caption above it.
    """
    height, width = rows[0][0][1].shape[:2]
    columns = max(map(len, rows))
    strips = []
    for row in rows:
        cells = [np.concatenate([_caption(text, width), cv2.resize(image, (width, height))]) for text, image in row]
        cells += [np.full_like(cells[0], 255)] * (columns - len(cells))
        strips.append(np.concatenate(cells, axis=1))
    return np.concatenate(strips)


def _caption(text, width, height=36):
    strip = np.full((height, width, 3), 255, np.uint8)
    cv2.putText(strip, text, (8, height - 11), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (0, 0, 0), 2, cv2.LINE_AA)
    return strip
