"""What the regression of ``estimation.py`` sees of a set of images, and the meta-set that it is fitted to."""

from dataclasses import dataclass

import numpy as np
import torch

from ...data.corruptions import CORRUPTIONS
from .average_precision import MatchedBoxes
from .criteria import SURE, agreement, stability
from .measure import Images, evenly, two_detectors
from .passes import look

VIEWS = ("flip", "masked", "dropout")
FEATURES = ("flip agreement", "mask agreement", "dropout stability", "mean score", "log of boxes")
CLASS_FEATURES = ("flip agreement", "mask agreement", "mean score", "log of boxes")


@dataclass
class SetStatistics:
    """Of N images: ``rows`` (N, 6 K + 2), whose sums make features; ``predictions`` on the whole images."""

    rows: np.ndarray
    predictions: list
    num_classes: int

    def features(self, weights=None):
        """Features of all images together, each counted ``weights`` (..., N) times; None = once.

        Returns:
            (ndarray, ndarray): (..., 5) of :data:`FEATURES` and (..., K, 4) of :data:`CLASS_FEATURES`.
        """
        k, weights = self.num_classes, np.ones(len(self.rows)) if weights is None else np.asarray(weights, float)
        total, count = weights @ self.rows, weights.sum(axis=-1)[..., None]
        flip, mask, scores = (
            total[..., i * 2 * k : (i + 1) * 2 * k].reshape(*total.shape[:-1], 2, k) for i in range(3)
        )
        stable = total[..., -2:]
        each = [_ratio(flip), _ratio(mask), _ratio(scores), np.log(scores[..., 0, :] / count + 0.05)]
        sums = scores.sum(axis=-1)
        overall = [
            each[0].mean(axis=-1), each[1].mean(axis=-1), _ratio(stable[..., None])[..., 0],
            _ratio(sums[..., None])[..., 0], np.log(sums[..., 0] / count[..., 0] + 0.05),
        ]  # fmt: skip
        return np.stack(overall, axis=-1), np.stack(each, axis=-1)


def _ratio(pair):
    """First by second of (..., 2, n); 0 where the second is 0."""
    first, second = pair[..., 0, :], pair[..., 1, :]
    return np.divide(first, second, out=np.zeros_like(first), where=second > 0)


def class_scores(predictions, num_classes):
    """Of each class the sum of scores and the number of its sure boxes: (N, 2 K)."""
    rows = np.zeros((len(predictions), 2, num_classes))
    for row, x in zip(rows, predictions):
        sure = x.scores >= SURE
        np.add.at(row[0], x.classes[sure], x.scores[sure])
        np.add.at(row[1], x.classes[sure], 1)
    return rows.reshape(len(predictions), -1)


def set_statistics(model, items, num_classes, after_image=None):
    """:class:`SetStatistics` of a MIC's evaluated detector, or of a plain one, on (name, image) pairs."""
    detector, _ = two_detectors(model)
    views = look(detector, items, None, VIEWS, after_image)
    whole = views["whole"]
    stable = stability(whole, views["dropout"]) if "dropout" in views else np.zeros((len(whole), 2))
    parts = [agreement(whole, views[v], num_classes) for v in ("flip", "masked")]
    return SetStatistics(np.hstack([*parts, class_scores(whole, num_classes), stable]), whole, num_classes)


@dataclass
class MetaSet:
    """Corrupted copies of labelled images.

    Attributes:
        kinds (list[str]): of each copy's corruption.
        levels (list[float])
        features, class_features (ndarray): (n, 5) and (n, K, 4).
        ap50, class_ap50 (ndarray): (n,) and (n, K), in per cent; NaN where there is no object.
    """

    kinds: list
    levels: list
    features: np.ndarray
    class_features: np.ndarray
    ap50: np.ndarray
    class_ap50: np.ndarray


def build_meta_set(model, source, num_classes, corruptions=CORRUPTIONS, images_each=0, after_image=None):
    """Measure a model on corrupted copies of labelled source images.

    Args:
        model (nn.Module): MIC or a detector, in eval mode.
        source (Images): labelled images that it was not trained on.
        num_classes (int): K.
        corruptions (sequence of Corruption): one a copy.
        images_each (int): at most this number of images in a copy, evenly spread; 0 = all.
        after_image (callable): called after each image.
    """
    chosen = evenly(list(range(len(source))), images_each)
    boxes, classes = [source.boxes[i] for i in chosen], [source.classes[i] for i in chosen]
    rows = []
    for corruption in corruptions:
        items = [(source.items[i][0], corrupted(source.items[i][1], corruption)) for i in chosen]
        found = set_statistics(model, items, num_classes, after_image)
        matched = MatchedBoxes(found.predictions, boxes, classes, num_classes)
        rows.append((*found.features(), matched(), matched.of_classes()))
    kinds, levels = [c.kind for c in corruptions], [c.level for c in corruptions]
    return MetaSet(kinds, levels, *(np.array(x) for x in zip(*rows)))


def corrupted(image, corruption):
    """A (3, H, W) image in [0, 255], changed by a :class:`Corruption`."""
    pixels = image.permute(1, 2, 0).clamp(0, 255).round().to(torch.uint8).numpy()
    return torch.from_numpy(np.ascontiguousarray(corruption(pixels))).permute(2, 0, 1)


def subset(images, chosen):
    """The images of these indices."""
    parts = (None if x is None else [x[i] for i in chosen] for x in (images.boxes, images.classes))
    return Images([images.items[i] for i in chosen], *parts)
