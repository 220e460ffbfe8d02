"""Accuracy of image classes: the mean over the classes, and what is confused with what."""

import json
import logging
import os
from collections import OrderedDict

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from matplotlib.figure import Figure

from ..utils.atomic_files import whole_file, write_whole

NUMBERS = 20  # classes; of more, the picture shows colours alone
FILE, PICTURE = "confusion.json", "confusion.png"


class ImageClassEvaluator(DatasetEvaluator):
    """Results ``image_class``, in per cent.

    ``accuracy`` is the mean of the accuracies of the classes that have images (VisDA-2017's metric), ``top-1`` the
    share of images that are right (Office-Home's), ``accuracy-NAME`` that of a class. ``confusion.json`` has the number
    of images by true and predicted class, and ``confusion.png`` shows their shares.
    """

    def __init__(self, dataset_name, distributed=True, output_dir=None):
        """
        Args:
            dataset_name (str): a registered set with ``thing_classes``.
            output_dir (str): where the two files go; None = nowhere.
        """
        self.name, self.distributed, self.output_dir = dataset_name, distributed, output_dir

    def reset(self):
        self.pairs = []  # (true class, predicted class) of each image

    def process(self, inputs, outputs):
        """``"image_class"`` is the label in an input, and the probabilities (K,) in an output."""
        for x, output in zip(inputs, outputs):
            self.pairs.append((x["image_class"], int(output["image_class"].argmax())))

    def evaluate(self):
        pairs = self.pairs
        if self.distributed:
            pairs = [pair for part in comm.gather(pairs, dst=0) for pair in part]
            if not comm.is_main_process():
                return {}
        names = list(MetadataCatalog.get(self.name).thing_classes)
        counts = confusion_counts(pairs, len(names))
        if self.output_dir:
            self._write(names, counts)
        results = accuracies(counts, names)
        shown = {k: round(v, 1) for k, v in results.items()}
        logging.getLogger(__name__).info("Image classes of %s: %s", self.name, shown)
        return OrderedDict(image_class=results)

    def _write(self, names, counts):
        os.makedirs(self.output_dir, exist_ok=True)
        content = json.dumps({"classes": names, "counts": counts.tolist()}, ensure_ascii=False)
        file = os.path.join(self.output_dir, FILE)
        write_whole(file, lambda f: f.write(content.encode("utf-8")))
        picture = confusion_chart(counts, names, f"{self.name}: predictions for each true class")
        with whole_file(os.path.join(self.output_dir, PICTURE)) as file:
            picture.savefig(file, dpi=150)


def confusion_counts(pairs, num_classes):
    """Number of images (K, K) by true class (row) and predicted class (column)."""
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    for true, predicted in pairs:
        counts[true, predicted] += 1
    return counts


def accuracies(counts, names):
    """The metrics of :class:`ImageClassEvaluator` from :func:`confusion_counts`; NaN where there is no image."""
    totals = counts.sum(axis=1)
    with np.errstate(invalid="ignore"):
        each = 100 * counts.diagonal() / totals
        overall = 100 * counts.trace() / np.float64(counts.sum())
    mean = float(each[totals > 0].mean()) if totals.any() else float("nan")
    return {
        "accuracy": mean, "top-1": float(overall), **{f"accuracy-{n}": float(v) for n, v in zip(names, each)}
    }  # fmt: skip


def confusion_chart(counts, names, title):
    """A :class:`Figure` of confusion counts (K, K): one row for each true class, in per cent of its images."""
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(4.0, 0.45 * len(names) + 2)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares) if len(names) <= NUMBERS else ():
        if counts[row, column]:
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", color="white" if share > 50 else "black")
    for set_ticks, label, rotation in ((axes.set_xticks, "predicted class", 90), (axes.set_yticks, "true class", 0)):
        set_ticks(range(len(names)), names, rotation=rotation, fontsize=8, parse_math=False)
        (axes.set_ylabel if rotation == 0 else axes.set_xlabel)(label)
    axes.set_title(title, fontsize=9, parse_math=False)
    return figure
