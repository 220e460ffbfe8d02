"""Does an exported file predict what PyTorch predicts? Detections are compared as sets, label maps pixel by pixel."""

from dataclasses import dataclass, field

import numpy as np

from ..errors import DataError
from ..utils.printable import printable

BOX, SCORE, PIXELS = 0.1, 1e-3, 0.999  # pixels; score; least share of equal labels


@dataclass
class Comparison:
    """Two predictions on one image: what only one has, and the largest differences of what both have."""

    count: int = 0  # of the first's detections
    only_first: list = field(default_factory=list)
    only_second: list = field(default_factory=list)
    box: float = 0.0
    score: float = 0.0
    pixels: float = 1.0

    @property
    def equal(self):
        return not self.only_first and not self.only_second and self.pixels >= PIXELS

    def __str__(self):
        parts = []
        for boxes, where in ((self.only_first, "PyTorch"), (self.only_second, "the exported file")):
            if boxes:
                parts.append(f"{len(boxes)} of {self.count} detections only in {where}, such as {boxes[0]}")
        if self.pixels < PIXELS:
            parts.append(f"only {100 * self.pixels:.2f} % of the labels are equal")
        return "; ".join(parts) or "equal"


def compare(first, second, box=BOX, score=SCORE):
    """
    Args:
        first, second (dict): predictions: ``"instances"`` (Detections) and ``"label_map"`` (H, W).
        box (float), score (float): largest differences of a pair, in pixels and in score.

    Returns:
        Comparison: detections are one pair where class, box and score are the same.
    """
    result = Comparison()
    if "instances" in first:
        _compare_boxes(first["instances"], second["instances"], result, box, score)
    if "label_map" in first:
        a, b = first["label_map"], second["label_map"]
        result.pixels = float((a == b).mean()) if a.shape == b.shape else 0.0
    return result


def _compare_boxes(first, second, result, most_box, most_score):
    result.count, free = len(first.scores), np.ones(len(second.scores), bool)
    for box, score, label in zip(*first):
        differences = np.abs(second.boxes - box).max(axis=1, initial=0.0)
        shifts = np.abs(second.scores - score)
        fits = free & (second.classes == label) & (differences <= most_box) & (shifts <= most_score)
        if not fits.any():
            result.only_first.append(_shown(box, score, label))
            continue
        i = int(np.flatnonzero(fits)[np.argmin(differences[fits])])
        free[i] = False
        result.box, result.score = max(result.box, float(differences[i])), max(result.score, float(shifts[i]))
    result.only_second += [_shown(*(x[i] for x in second)) for i in np.flatnonzero(free)]


def _shown(box, score, label):
    return f"class {int(label)} {float(score):.4f} [{', '.join(f'{v:.1f}' for v in box)}]"


@dataclass
class Verdict:
    """Comparisons of many images by their names."""

    images: dict
    decoded_otherwise: list  # names of images that OpenCV decodes to other pixels than Pillow

    @property
    def different(self):
        return {name: c for name, c in self.images.items() if not c.equal}

    def lines(self):
        """The verdict as text, and one line for each of the first images that differ."""
        all_of = list(self.images.values())
        lines = [f"{name}: {c}" for name, c in list(self.different.items())[:10]]
        lines.append(
            f"{len(all_of) - len(self.different)} of {len(all_of)} images equal, {sum(c.count for c in all_of)} "
            f"detections; largest difference of a box {max(c.box for c in all_of):.2g} pixels, of a score "
            f"{max(c.score for c in all_of):.2g}; least share of equal labels "
            f"{100 * min(c.pixels for c in all_of):.3f} %"
        )
        if self.decoded_otherwise:
            lines.append(
                f"{len(self.decoded_otherwise)} images are decoded by OpenCV to other pixels than by Pillow, such as "
                f"{self.decoded_otherwise[0]}: both models got Pillow's pixels"
            )
        return lines


def verify(reference, candidate, sources, read):
    """
    Args:
        reference, candidate (callable): from RGB pixels to predictions. The second has its own ``read``.
        sources (list[Source]): images.
        read (callable): the reference's reading of a file.

    Returns:
        Verdict

    Raises:
        DataError: where an image cannot be used, with its path.
    """
    images, otherwise = {}, []
    for source in sources:
        try:
            rgb, own = read(source.path), candidate.read(source.path)
            images[source.name] = compare(reference(rgb), candidate(rgb))
        except (DataError, ValueError) as e:  # ValueError: ImageError
            raise DataError(f"--verify: {printable(source.path)} {e}.") from e
        if own.shape != rgb.shape or (own != rgb).any():
            otherwise.append(source.name)
    return Verdict(images, otherwise)
