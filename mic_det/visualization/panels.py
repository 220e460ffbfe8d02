"""Pictures of what the teacher and the student see in a target image."""

from dataclasses import dataclass
from typing import Optional

import cv2
import numpy as np
import torch
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import ImageList, Instances
from detectron2.utils.visualizer import Visualizer
from torch import nn

from ..modeling.inputs import TeacherView, preprocess, unnormalised
from ..modeling.pseudo_labels import rejection_reasons
from ..modeling.regions import region_keypoints
from ..modeling.tasks.region_teacher import RegionTeacher
from .box_labels import (
    columns,
    in_default_font,
    literal,
    put_label,
    shown_name,
)
from .label_maps import sem_seg_panels
from .masks import overlay_masks, predicted_masks, true_masks
from .sheet import MIN_WIDTH
from .skeletons import Skeleton, draw_skeletons

# One colour a class, distinct and light enough to be read on a dark street (RGB, 0 to 1)
COLORS = np.array(
    [(220, 20, 60), (255, 140, 0), (30, 144, 255), (0, 206, 209), (50, 205, 50), (186, 85, 211), (255, 215, 0),
     (255, 105, 180)]
) / 255  # fmt: skip


SHEET_COLUMNS = 6  # of a contact sheet: what is drawn of boxes; pictures of pixels come below them
MAX_HEIGHT = 4000  # pixels; up to which narrow pictures are enlarged


def draw_boxes(
    image, boxes, classes, scores=None, class_names=(), reasons=None, labels=True, keypoints=None, skeleton=None
):
    """Draw labelled boxes; those with a reason to be rejected are dashed.

    Args:
        image (ndarray): (H, W, 3) RGB uint8.
        boxes (array): (M, 4), XYXY pixels of ``image``.
        classes (sequence of int), scores (sequence of float or None).
        reasons (sequence of str): why a box is rejected, "" for the others; None = none is.
        labels (bool): write class, score and reason beside each box.
        keypoints (array): (M, K, 3), rows (x, y, style) of the boxes' keypoints; see :func:`draw_skeletons`.
        skeleton (Skeleton): the lines between them.

    Returns:
        ndarray: (H', W', 3) RGB uint8, at least 800 pixels wide so that labels are legible, unless it is very tall.
    """
    scale = max(1.0, min(MIN_WIDTH / image.shape[1], MAX_HEIGHT / image.shape[0]))
    if scale > 1:
        size = round(image.shape[1] * scale), round(image.shape[0] * scale)
        # the pixels of a very small image stay what they are
        image = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST_EXACT if scale > 3 else cv2.INTER_LINEAR)
    if keypoints is not None:
        colors = [COLORS[c % len(COLORS)] for c in classes]
        image = draw_skeletons(image, np.asarray(keypoints) * (scale, scale, 1), skeleton, colors)
    boxes = np.asarray(boxes, dtype=float).reshape(-1, 4) * scale
    reasons = [""] * len(boxes) if reasons is None else reasons
    visualizer = Visualizer(np.ascontiguousarray(image))
    size = text_height(image.shape[1])
    placed, later = [], []
    # rejected boxes lie below the others, large ones below small ones
    order = sorted(range(len(boxes)), key=lambda i: (not reasons[i], -_area(boxes[i])))
    for i in order:
        color = COLORS[classes[i] % len(COLORS)]
        style, alpha = ("--", 0.8) if reasons[i] else ("-", 0.9)
        visualizer.draw_box(boxes[i], alpha=alpha, edge_color=color, line_style=style)
    for i in reversed(order) if labels else ():  # the best places are for the boxes that count
        name = str(class_names[classes[i]]) if classes[i] < len(class_names) else str(classes[i])
        name = shown_name(name, int(classes[i]))
        label = name if scores is None else f"{name} {scores[i]:.2f}"
        label = f"{label}: {reasons[i]}" if reasons[i] else label
        place = _label_place(label, boxes[i], size, image.shape, placed)
        color = COLORS[classes[i] % len(COLORS)]
        if not in_default_font(label):
            later.append((label, place, size, color))
            continue
        points = size * 72 / visualizer.output.dpi
        visualizer.draw_text(literal(label), place, font_size=points, color=color, horizontal_alignment="left")
    drawn = visualizer.output.get_image()
    for label in later:
        put_label(drawn, *label)
    return drawn


def draw_masks(picture, masks, classes):
    """The picture with masks (M, H, W) in the colours of M classes; None = there are no masks."""
    return picture if masks is None else overlay_masks(picture, masks, [COLORS[c % len(COLORS)] for c in classes])


def text_height(width):
    """Height of labels (pixels) in a panel of this width. Text grows with the picture: one of 2048 pixels is looked at
    from further away than one of 800."""
    return max(14, width / 80)


def _area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def _label_place(label, box, size, shape, placed):
    """Upper left corner of a label (pixels): above its box, or where else no label is; noted in ``placed``."""
    width, height = 0.62 * size * columns(label), 1.35 * size
    x0, y0, x1, y1 = box
    choices = [(x0, y0 - height), (x0, y1 + 3), (x0 + 3, y0 + 3), (x1 - width, y0 - height), (x1 - width, y1 + 3)]
    # in a crowd, labels are stacked above and below their boxes
    choices += [(x0, y) for i in range(1, 12) for y in (y0 - height - i * height, y1 + 3 + i * height)]
    inside = [
        (min(max(0, x), max(0, shape[1] - width)), y) for x, y in choices if 0 <= y and y + height <= shape[0]
    ] or [(min(max(0, x0), max(0, shape[1] - width)), min(max(0, y0), shape[0] - height))]
    free = [p for p in inside if not any(_overlap(p, (width, height), q, size) for q, size in placed)]
    place = (free or inside)[0]
    placed.append((place, (width, height)))
    return place


def _overlap(p, p_size, q, q_size):
    return all(p[i] < q[i] + q_size[i] and q[i] < p[i] + p_size[i] for i in (0, 1))


@torch.no_grad()
def mic_panels(
    model, batched_input, truth=None, generator=None, score_threshold=0.5, class_names=(), input_format=None,
    source=None, max_rejected=10,
):  # fmt: skip
    """What MIC makes of one target image.

    Args:
        model (MIC): in eval mode.
        batched_input (dict): one mapped target image; predictions and boxes are in the frame of ``"image"``.
        truth (Instances): true boxes in the same frame, where known.
        generator (torch.Generator): draws the mask.
        score_threshold (float): least score of a prediction that is drawn.
        input_format (str): order of the images' channels, ``INPUT.FORMAT``; None = the student tells.
        source (dict): a mapped source image with label map, to show ClassMix with.
        max_rejected (int): at most this number of the teacher's detections that are no pseudo-boxes is drawn, the best.

    Returns:
        list[(str, ndarray)]: caption and RGB picture of each panel.
    """
    image = batched_input["image"]
    input_format = input_format or model.student.input_format
    picture = to_rgb(image, input_format)
    masked = preprocess(model.student, [{"image": model.strong_view(image.to(model.device))}])
    model.hide_patches(masked, generator)
    view = unnormalised(model.student, masked)[0]
    view = to_rgb(view.clamp(0, 255).round().to(torch.uint8), input_format)
    # all of the teacher's detections, not logged as pseudo-boxes: a picture is not a training step
    scene = Scene(model, batched_input, model.teacher_view([batched_input]), picture, masked, view, truth, source,
                  score_threshold, class_names, input_format, max_rejected)  # fmt: skip
    found = [PANELS[task.name](task, scene) for task in sorted(model.tasks, key=lambda task: task.name)]
    panels = [("target image", draw_boxes(picture, [], [])), *[panel for panels in found for panel in panels]]
    if not any(text.startswith(MASKED) for text, _ in panels):
        panels.insert(1, (MASKED, draw_boxes(view, [], [])))
    return panels


MASKED = "masked view of the student"


@dataclass
class Scene:
    """What there is to draw of one target image; see :func:`mic_panels`.

    ``seen`` is the :class:`TeacherView` of it. ``picture`` and ``view`` are the image and its masked view in RGB,
    ``masked`` is that view as the student takes it.
    """

    model: nn.Module
    batched_input: dict
    seen: TeacherView
    picture: np.ndarray
    masked: ImageList
    view: np.ndarray
    truth: Optional[Instances]
    source: Optional[dict]
    score_threshold: float
    class_names: tuple
    input_format: str
    max_rejected: int


def _box_panels(task, scene):
    detections = task.detections(scene.model.teacher, scene.seen)[0]
    select = {**task.selection, "ignore_score": task.ignore_score}
    skeleton = None
    if getattr(getattr(scene.model.student, "roi_heads", None), "keypoint_on", False):
        skeleton = Skeleton.of_set(task.source, task.keypoint_score)
        rows = RegionTeacher(scene.model.teacher, scene.seen).keypoints([detections.pred_boxes.tensor])
        detections.pred_keypoints = rows[0]
    panels = _pseudo_box_panels(
        select, scene.picture, scene.view, detections, scene.class_names, scene.max_rejected, skeleton
    )
    student = scene.model.student
    features = student.backbone(scene.masked.tensor) if skeleton else None
    on_masked = task.predict(student, scene.masked, features)[0]
    on_masked = on_masked[on_masked.scores >= scene.score_threshold]
    if skeleton:
        on_masked.pred_keypoints = region_keypoints(student.roi_heads, features, [on_masked.pred_boxes])[0]
    drawn = draw_instances(
        scene.view, on_masked, on_masked.pred_boxes, on_masked.pred_classes, scene.class_names, skeleton=skeleton
    )
    panels.append((f"student on the masked view, score >= {scene.score_threshold}", drawn))
    return panels + _prediction_panels(scene, skeleton)


def _pixel_panels(task, scene):
    pseudo = task.pseudo_labels(scene.model.teacher, scene.seen)
    found = sem_seg_panels(scene.model, scene.batched_input, pseudo, scene.source, scene.input_format)
    return [(text, draw_boxes(labels, [], [])) for text, labels in found]


def _class_panels(task, scene):
    student, panels = scene.model.student, []
    pseudo = task.pseudo_labels(scene.model.teacher, scene.seen)
    on_masked = task.predict(student, student.encode(scene.masked.tensor))
    for what, picture, found in (("teacher, whole image", scene.picture, pseudo), (MASKED, scene.view, on_masked)):
        label = int(found.labels[0])
        name = scene.class_names[label] if label < len(scene.class_names) else f"class {label}"
        panels.append((f"{what}: {name} {float(found.confidence[0]):.2f}", draw_boxes(picture, [], [])))
    return panels


PANELS = {"boxes": _box_panels, "pixels": _pixel_panels, "image_class": _class_panels}


def _prediction_panels(scene, skeleton):
    prediction = scene.model.inference([scene.batched_input], do_postprocess=False)[0]
    prediction = prediction[0] if isinstance(prediction, list) else prediction  # beside pixels, of PanopticFPN
    prediction = prediction[prediction.scores >= scene.score_threshold]
    drawn = draw_instances(
        scene.picture, prediction, prediction.pred_boxes, prediction.pred_classes, scene.class_names, skeleton=skeleton
    )
    panels = [(f"prediction for the whole image, score >= {scene.score_threshold}", drawn)]
    if scene.truth is not None:
        panels.append(("truth", draw_truth(scene.picture, scene.truth, scene.class_names, skeleton)))
    return panels


def draw_truth(picture, truth, class_names, skeleton=None, labels=True):
    """:func:`draw_boxes` of true objects (``Instances``)."""
    keypoints = truth.gt_keypoints.tensor.cpu().numpy() if skeleton and truth.has("gt_keypoints") else None
    boxes = truth.gt_boxes.tensor.cpu().numpy()
    picture = draw_masks(picture, true_masks(truth, picture.shape), truth.gt_classes.tolist())
    return draw_boxes(
        picture, boxes, truth.gt_classes.tolist(), None, class_names, labels=labels, keypoints=keypoints,
        skeleton=skeleton,
    )  # fmt: skip


def _pseudo_box_panels(select, picture, view, detections, class_names, max_rejected, skeleton=None):
    """Captions and pictures of the teacher's detections: pseudo-boxes and the best of those that are rejected on the
    whole image, then the pseudo-boxes on the masked view with their keypoints, if the teacher predicts them."""
    reasons = rejection_reasons(detections, **select)
    kept = [i for i, reason in enumerate(reasons) if not reason]
    rejected = [i for i, reason in enumerate(reasons) if reason]  # the best first, as they were found
    caption = f"teacher's pseudo-boxes ({len(kept)})"
    if len(rejected) > max_rejected:
        caption += f", {max_rejected} best of {len(rejected)} rejected dashed"
    elif rejected:
        caption += f", {len(rejected)} rejected dashed"
    drawn = kept + rejected[:max_rejected]
    shown = detections[drawn]
    why = [reasons[i] for i in drawn]
    pseudo = detections[kept]
    return [
        (caption, draw_instances(picture, shown, shown.pred_boxes, shown.pred_classes, class_names, why)),
        (f"{MASKED}, pseudo-boxes",
         draw_instances(view, pseudo, pseudo.pred_boxes, pseudo.pred_classes, class_names, skeleton=skeleton)),
    ]  # fmt: skip


def to_rgb(image, channels):
    """A (3, H, W) uint8 tensor in the channel order of ``INPUT.FORMAT`` as an (H, W, 3) RGB array."""
    return convert_image_to_rgb(image.permute(1, 2, 0).cpu(), channels)


def draw_instances(picture, instances, boxes, classes, class_names, reasons=None, labels=True, skeleton=None):
    """:func:`draw_boxes` of detections or pseudo-boxes, which call their boxes and classes differently.

    Masks are drawn where there are any; with a :class:`Skeleton`, keypoints are drawn, too.
    """
    picture = draw_masks(picture, predicted_masks(instances, boxes, picture.shape), classes.tolist())
    scores, keypoints = instances.scores.tolist(), None
    if skeleton and instances.has("pred_keypoints"):
        keypoints = skeleton.styled(instances.pred_keypoints.cpu().numpy(), classes.tolist())
    return draw_boxes(
        picture, boxes.tensor.cpu().numpy(), classes.tolist(), scores, class_names, reasons, labels, keypoints, skeleton
    )
