"""Panoptic quality of instance masks and pixel labels (Kirillov et al., "Panoptic Segmentation", CVPR 2019)."""

import logging
from collections import OrderedDict

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from pycocotools import mask as coco_mask

from ..data.classes import positions
from ..utils.ordinary_files import open_picture


class PanopticQuality(DatasetEvaluator):
    """PQ, SQ and RQ from ``instances`` with ``pred_masks`` and ``sem_seg`` logits.

    Things are the classes of boxes, found by name among those of pixels; all others are stuff. Truth
    comes from the data set's instance masks and label maps; crowd regions and ignored pixels are void.

    Args:
        dataset_name (str): a set with masks and label maps.
        min_score (float): instances below it are left out.
        min_visible (float): least share of an instance's mask that is not taken by better ones.
        min_stuff (int): least pixels of a stuff segment.
    """

    def __init__(self, dataset_name, min_score=0.5, min_visible=0.5, min_stuff=64):
        self.truth = {d["file_name"]: d for d in DatasetCatalog.get(dataset_name)}
        meta = MetadataCatalog.get(dataset_name)  # loading the set has named its classes
        self.names = list(meta.stuff_classes)
        # of each class of boxes, its class of pixels
        self.of_thing = positions(meta.thing_classes, self.names)
        self.ignored = meta.ignore_label
        self.limits = dict(min_score=min_score, min_visible=min_visible, min_stuff=min_stuff)

    def reset(self):
        # of each class: sum of IoUs of matched segments, and numbers matched, predicted alone, missed
        self.counts = np.zeros((len(self.names), 4))

    def process(self, inputs, outputs):
        for x, output in zip(inputs, outputs):
            truth = self._true_segments(self.truth[x["file_name"]])
            found = output["instances"].to("cpu")
            pixels = output["sem_seg"].argmax(dim=0).cpu().numpy()
            classes = [self.of_thing[c] for c in found.pred_classes.tolist()]
            masks = found.pred_masks.numpy() if len(found) else np.zeros((0, *pixels.shape), bool)
            segments = merge(masks, classes, found.scores.tolist(), pixels, self.of_thing, **self.limits)
            self.counts += match(segments, truth, len(self.names))

    def _true_segments(self, d):
        with open_picture(d["sem_seg_file_name"]) as opened:
            labels = np.array(opened).astype(np.int64)
        segments = [(c, labels == c) for c in range(len(self.names)) if c not in self.of_thing and (labels == c).any()]
        for a in d["annotations"]:
            if not a.get("iscrowd", 0):
                segments.append((self.of_thing[a["category_id"]], _decode(a["segmentation"], labels.shape)))
        covered = np.zeros(labels.shape, bool)
        for _, mask in segments:
            covered |= mask
        return segments, ~covered

    def evaluate(self):
        comm.synchronize()
        counts = sum(comm.all_gather(self.counts))
        if not comm.is_main_process():
            return None
        iou, tp, fp, fn = counts.T
        seen = tp + fp + fn > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            sq = np.where(tp > 0, iou / tp, 0)
            rq = tp / (tp + fp / 2 + fn / 2)
        pq = sq * rq
        things = np.isin(np.arange(len(self.names)), self.of_thing)
        results = {}
        for suffix, chosen in (("", seen), ("_th", seen & things), ("_st", seen & ~things)):
            for name, values in (("PQ", pq), ("SQ", sq), ("RQ", rq)):
                results[name + suffix] = float(100 * values[chosen].mean()) if chosen.any() else float("nan")
        results.update({f"PQ-{n}": float(100 * v) for n, v, s in zip(self.names, pq, seen) if s})
        logging.getLogger(__name__).info("Panoptic quality: %s", {k: round(v, 1) for k, v in results.items()})
        return OrderedDict(panoptic_seg=results)


def merge(masks, classes, scores, pixels, things, min_score, min_visible, min_stuff):
    """Segments [(class, mask (H, W))] that do not overlap: instances by score, then stuff where there is none.

    Args:
        masks (ndarray): (N, H, W) bool; classes, scores: N of each.
        pixels (ndarray): (H, W) most probable class of each pixel.
        things (sequence of int): classes of pixels that are things; they make no stuff.
        min_score, min_visible, min_stuff: see :class:`PanopticQuality`.
    """
    taken, segments = np.zeros(pixels.shape, bool), []
    for i in np.argsort(-np.asarray(scores, dtype=float), kind="stable"):
        visible = masks[i] & ~taken
        if scores[i] >= min_score and visible.any() and visible.sum() >= min_visible * masks[i].sum():
            taken |= visible
            segments.append((classes[i], visible))
    for c in np.unique(pixels[~taken]):
        mask = (pixels == c) & ~taken
        if c not in things and mask.sum() >= min_stuff:
            segments.append((int(c), mask))
    return segments


def match(segments, truth, num_classes):
    """Counts (num_classes, 4) of one image: sum of IoUs, matched, predicted alone, missed.

    Two segments of one class match where their IoU, void left out, exceeds 0.5; a prediction that is mostly
    void counts nowhere.
    """
    true_segments, void = truth
    counts, missed = np.zeros((num_classes, 4)), [True] * len(true_segments)
    for c, mask in segments:
        hit = False
        for j, (true_class, true_mask) in enumerate(true_segments):
            common = np.count_nonzero(mask & true_mask) if c == true_class and missed[j] else 0
            if common:
                iou = common / (np.count_nonzero(mask & ~void) + np.count_nonzero(true_mask) - common)
                if iou > 0.5:
                    counts[c] += (iou, 1, 0, 0)
                    hit, missed[j] = True, False
                    break
        if not hit and np.count_nonzero(mask & void) <= 0.5 * np.count_nonzero(mask):
            counts[c, 2] += 1
    for (c, _), alone in zip(true_segments, missed):
        counts[c, 3] += alone
    return counts


def _decode(segmentation, size):
    """A COCO mask, RLE or polygons, as (H, W) bool."""
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, *size)
    return coco_mask.decode(segmentation).astype(bool)
