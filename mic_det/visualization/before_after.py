"""Images with the predictions of several detectors, and with the truth."""

import numpy as np
from detectron2.structures import Instances

from ..evaluation.pseudo_label_quality import number_of_pairs
from .grid import panel_grid
from .panels import draw_boxes, draw_instances


def before_after(image, entries, class_names=(), *, score_threshold=0.5, labels=True, columns=None):
    """Draw what several detectors predict in one image, side by side, as a grid that fits a screen.

    Where one of the entries is the truth, the captions of the others count: "adapted: 5 of 7 objects, 1 wrong box". A
    box is right if it has the class of a true box and overlaps it by an IoU of 0.5 or more; each counts once.

    Args:
        image (ndarray): (H, W, 3) RGB uint8.
        entries (dict): name -> :class:`Instances` in the frame of ``image``, in the order of the panels. Predictions
            have ``pred_boxes``, ``pred_classes`` and ``scores``; the truth has ``gt_boxes`` and ``gt_classes``.
            None = the image without boxes.
        class_names (sequence of str): by number; a class that has none is shown by its number.
        score_threshold (float): least score of a prediction that is drawn and counted, in [0, 1].
        labels (bool): write class and score beside the boxes; False = boxes alone, for small pictures.
        columns (int): of the grid; None = as :func:`panel_grid` chooses.

    Returns:
        ndarray: RGB uint8.
    """
    return panel_grid(_panels(image, entries, class_names, score_threshold, labels), columns=columns, labels=labels)


def before_after_sheet(rows, class_names=(), *, score_threshold=0.5, labels=True):
    """Several images of :func:`before_after` below each other, as one picture.

    It fits a screen, as far as labels stay legible.

    Args:
        rows (list[(ndarray, dict)]): image and entries of each row; all rows have the same names, in one order.
        class_names, score_threshold, labels: as there.

    Returns:
        ndarray: RGB uint8, with a column for each name.
    """
    drawn = [_panels(image, entries, class_names, score_threshold, labels) for image, entries in rows]
    return panel_grid(sum(drawn, []), columns=len(rows[0][1]), labels=labels)


def typical_images(boxes, count):
    """Choose images to show: one from each part of a set, whose number of boxes is closest to the median.

    Streets with very many objects are the hardest ones, and empty ones show nothing.

    Args:
        boxes (sequence of int): number of true boxes in each image. Images without boxes do not count in the median.
        count (int): maximum number of images.

    Returns:
        list[int]: indices in ascending order. The set is divided into ``count`` parts of almost equal length.
    """
    boxes = np.asarray(boxes)
    median = np.median(boxes[boxes > 0]) if (boxes > 0).any() else 0
    parts = np.array_split(np.arange(len(boxes)), min(count, len(boxes)))
    return [int(part[np.argmin(np.abs(boxes[part] - median))]) for part in parts]


def _panels(image, entries, class_names, score_threshold, labels):
    """A caption and a picture for each entry."""
    truth = next((x for x in entries.values() if _is_truth(x)), None)
    panels = []
    for name, instances in entries.items():
        if instances is None:
            panels.append((name, draw_boxes(image, [], [])))
        elif _is_truth(instances):
            boxes, classes = instances.gt_boxes.tensor.cpu().numpy(), instances.gt_classes.tolist()
            drawn = draw_boxes(image, boxes, classes, None, class_names, labels=labels)
            panels.append((f"{name}: {_objects(len(classes))}", drawn))
        else:
            shown = instances.to("cpu")[instances.scores.cpu() >= score_threshold]
            drawn = draw_instances(image, shown, shown.pred_boxes, shown.pred_classes, class_names, labels=labels)
            panels.append((f"{name}{_score(shown, truth)}", drawn))
    return panels


def _is_truth(instances):
    return instances is not None and instances.has("gt_boxes")


def _score(shown, truth):
    """What a caption says of the predictions ``shown``; "" without a truth."""
    if truth is None:
        return ""
    true = Instances(truth.image_size, pred_boxes=truth.gt_boxes, pred_classes=truth.gt_classes).to("cpu")
    right = number_of_pairs(shown, true) if len(shown) and len(true) else 0
    wrong = len(shown) - right
    text = f": {right} of {_objects(len(true))}"
    return f"{text}, {wrong} wrong box{'es' * (wrong != 1)}" if wrong else text


def _objects(count):
    return f"{count} object{'s' * (count != 1)}"
