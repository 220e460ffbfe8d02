"""True boxes with controlled errors, as the results file of a labeller: an experiment on ``MODEL.MIC.LABELLER``."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Noise:
    """Errors of a labeller.

    ``misses``: probability that a true box is missing. ``false_boxes``: false boxes per true box, as a mean.
    ``jitter``: standard deviation of the position of a box's centre and of its sides, as a share of its sides.
    ``true_score`` and ``false_score``: mean and standard deviation of the scores of true and of false boxes, which are
    cut to [0.05, 1].
    """

    misses: float = 0.0
    false_boxes: float = 0.0
    jitter: float = 0.0
    true_score: tuple = (0.85, 0.1)
    false_score: tuple = (0.6, 0.15)


LEVELS = {1: Noise(0.1, 0.1, 0.05), 2: Noise(0.3, 0.3, 0.1), 3: Noise(0.5, 0.6, 0.2)}


def noisy_results(images, noise, seed=0):
    """A COCO results list: true boxes with errors.

    A false box has the size and the class of a true box of the set, drawn at random, at a random place of the image.

    Args:
        images (list[dict]): with ``id``, ``width``, ``height`` and ``boxes``, a list of (XYWH box, category id).
        noise (Noise): the errors.
        seed (int): of the random numbers.

    Returns:
        list[dict]: ``image_id``, ``category_id``, ``bbox`` (XYWH pixels inside the image) and ``score``.
    """
    rng = np.random.default_rng(seed)
    everything = [box for x in images for box in x["boxes"]]
    results = []
    for x in images:
        kept = [b for b in x["boxes"] if rng.random() >= noise.misses]
        found = [(_jittered(rng, box, noise.jitter), c, noise.true_score) for box, c in kept]
        for _ in range(rng.poisson(noise.false_boxes * len(x["boxes"]))):
            (_, _, w, h), category = everything[rng.integers(len(everything))]
            left, top = (rng.uniform(0, max(0.0, side - own)) for side, own in ((x["width"], w), (x["height"], h)))
            found.append(((left, top, w, h), category, noise.false_score))
        for box, category, (mean, spread) in found:
            box = _inside(box, x["width"], x["height"])
            if box is not None:
                score = float(np.clip(rng.normal(mean, spread), 0.05, 1.0))
                results.append({"image_id": x["id"], "category_id": category, "bbox": box, "score": round(score, 4)})
    return results


def _jittered(rng, box, jitter):
    x, y, w, h = box
    dx, dy, dw, dh = rng.normal(0.0, 1.0, 4) * jitter
    new_w, new_h = w * np.exp(dw), h * np.exp(dh)
    return x + w / 2 + dx * w - new_w / 2, y + h / 2 + dy * h - new_h / 2, new_w, new_h


def _inside(box, width, height):
    """The part of a box inside the image, rounded; None where there is less than a pixel of it."""
    x0, y0, x1, y1 = box[0], box[1], box[0] + box[2], box[1] + box[3]
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    return [round(float(v), 2) for v in (x0, y0, x1 - x0, y1 - y0)] if x1 - x0 >= 1 and y1 - y0 >= 1 else None
