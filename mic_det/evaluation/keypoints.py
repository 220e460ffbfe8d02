"""PCK: the percentage of correct keypoints (Yang and Ramanan, "Articulated Human Detection", TPAMI 2013)."""

import logging
from collections import OrderedDict

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, BoxMode, pairwise_iou
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table

from .coco_truth import labelled_dicts

LEAST_IOU = 0.5
OCCLUDED, VISIBLE = 1, 2  # COCO's visibility


class KeypointEvaluator(DatasetEvaluator):
    """Results ``pck``, in per cent of the true keypoints.

    A keypoint is right where the matched prediction has it at most ``share`` of the longer side of the true box away.
    The predictions of an image are matched as in COCO: by descending score, each takes the true box of its class that
    it overlaps most, among those that are free, if the IoU is at least 0.5. All keypoints of a true object that has no
    prediction are missed. Crowds are left out.

    ``PCK`` counts the visible keypoints of all objects, and ``PCK-CLASS`` those of a class. ``PCK-PART`` counts those
    of a keypoint's name, left and right together. ``PCK-occluded`` counts the keypoints that are in the image, but
    covered.
    """

    def __init__(self, dataset_name, share=0.1, distributed=True):
        """
        Args:
            dataset_name (str): a labelled set, whose metadata has ``thing_classes`` and ``keypoint_names``.
            share (float): see above.

        Raises:
            DataError: where the set cannot be loaded.
        """
        self.name, self.share, self.distributed = dataset_name, share, distributed
        self.truth = {d["image_id"]: _true_objects(d) for d in labelled_dicts(dataset_name)}

    def reset(self):
        self.rows = []  # of each true object: its class, the visibility (K,) of its keypoints, and which are right (K,)

    def process(self, inputs, outputs):
        for x, output in zip(inputs, outputs):
            found, truth = output["instances"].to("cpu"), self.truth[x["image_id"]]
            pairs = match_objects(found, truth)
            for i, (box, label, keypoints) in enumerate(zip(*truth)):
                right = np.zeros(len(keypoints), bool)
                if i in pairs:
                    distance = (found.pred_keypoints[pairs[i], :, :2].double() - keypoints[:, :2]).norm(dim=1)
                    right = (distance <= self.share * (box[2:] - box[:2]).max()).numpy()
                self.rows.append((int(label), keypoints[:, 2].numpy().astype(int), right))

    def evaluate(self):
        rows = self.rows
        if self.distributed:
            rows = [row for part in comm.gather(rows, dst=0) for row in part]
            if not comm.is_main_process():
                return {}
        metadata = MetadataCatalog.get(self.name)
        results = shares_of_right(rows, metadata.get("thing_classes") or (), metadata.get("keypoint_names") or ())
        table = create_small_table(results).replace("%", "%%")  # as a part of the message, its line ends stay
        logging.getLogger(__name__).info(
            "Keypoints of %s within %g of the longer side of the box, in per cent:\n" + table, self.name, self.share
        )
        return OrderedDict(pck=results)


def _true_objects(d):
    """Boxes (N, 4) in XYXY, classes (N,) and keypoints (N, K, 3) of the objects of an image that have keypoints."""
    own = [a for a in d.get("annotations", ()) if not a.get("iscrowd", 0) and a.get("keypoints")]
    boxes = [BoxMode.convert(list(map(float, a["bbox"])), a["bbox_mode"], BoxMode.XYXY_ABS) for a in own]
    keypoints = [np.reshape(a["keypoints"], (-1, 3)) for a in own]
    return (
        torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
        torch.tensor([a["category_id"] for a in own], dtype=torch.int64),
        torch.from_numpy(np.array(keypoints, dtype=np.float64)).reshape(len(own), -1, 3)
        if own
        else torch.zeros(0, 0, 3),
    )


def match_objects(found, truth):
    """{number of a true object: number of the prediction that is matched to it}; see :class:`KeypointEvaluator`.

    Args:
        found (Instances): predictions.
        truth (tuple): boxes, classes and keypoints of the true objects of an image.
    """
    boxes, classes, _ = truth
    if not len(boxes) or not len(found):
        return {}
    iou = pairwise_iou(Boxes(found.pred_boxes.tensor.double()), Boxes(boxes.double()))
    iou = iou * (found.pred_classes[:, None] == classes)
    pairs = {}
    for i in found.scores.argsort(descending=True, stable=True).tolist():
        free = [j for j in range(len(boxes)) if j not in pairs and iou[i, j] >= LEAST_IOU]
        if free:
            pairs[max(free, key=lambda j: float(iou[i, j]))] = i
    return pairs


def shares_of_right(rows, class_names, keypoint_names):
    """The results of :class:`KeypointEvaluator` from rows (class, visibility (K,), right (K,)); NaN where there is no
    keypoint. Classes without keypoints are left out."""
    number = max((len(v) for _, v, _ in rows), default=len(keypoint_names))
    visibility = np.array([v for _, v, _ in rows]).reshape(-1, number)
    right = np.array([r for _, _, r in rows], dtype=bool).reshape(-1, number)
    classes = np.array([c for c, _, _ in rows], dtype=int)
    seen, parts = visibility == VISIBLE, [_part(n) for n in keypoint_names]

    def share(chosen):
        return float(100 * right[chosen].mean()) if chosen.any() else float("nan")

    results = {"PCK": share(seen)}
    for label in np.unique(classes):
        name = class_names[label] if label < len(class_names) else f"class {label}"
        results[f"PCK-{name}"] = share(seen & (classes == label)[:, None])
    for part in dict.fromkeys(parts) if len(parts) == number else ():
        key = f"PCK-{part}" if f"PCK-{part}" not in results else f"PCK-{part} (keypoint)"
        results[key] = share(seen & np.array([p == part for p in parts]))
    results["PCK-occluded"] = share(visibility == OCCLUDED)
    return results


def _part(name):
    """A keypoint's name without its side."""
    for side in ("left_", "right_", "left ", "right "):
        name = name[len(side) :] if name.lower().startswith(side) else name
    return name
