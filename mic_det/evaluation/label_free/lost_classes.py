"""Classes that a training has lost: its start predicted them, and it hardly does any more.

Criteria of agreement are blind to that, because boxes that are no longer there cannot disagree.
"""

import numpy as np

LOST = 0.25  # share of the start's scores below which a class is lost
# The start must have predicted a class in all images together this often: boxes, images; of label maps, share of places
LEAST_BOXES, LEAST_IMAGES, LEAST_PLACES = 1.0, 5.0, 0.001


def class_scores(measured):
    """Sum of the scores of each class in an image, mean over images: (K,) boxes, images or shares of places.

    A score is the probability of a box, so the sum is the expected number of boxes. It is the mean of the views that
    ``flip_agreement`` compares. None where that was not measured.

    Args:
        measured (Measured): of one model.
    """
    rows = measured.statistics.get("flip_agreement")
    return None if rows is None else rows.mean(axis=0).reshape(2, -1)[1] / 2


def lost_classes(start, now, least):
    """Classes whose scores have fallen below a quarter of the start's.

    Args:
        start, now (sequence of float): (K,), of :func:`class_scores`; None = not known.
        least (float): classes of which the start has less are left out, see :func:`least_scores`.

    Returns:
        list[int]: in the order of the model's classes.
    """
    if start is None or now is None or len(start) != len(now):
        return []
    start, now = np.asarray(start), np.asarray(now)
    return np.flatnonzero((start >= least) & (now < LOST * start)).tolist()


def least_scores(kind, num_images):
    """The ``least`` of :func:`lost_classes` for a kind of label ("boxes", "pixels", "image_class")."""
    if kind == "pixels":
        return LEAST_PLACES
    return (LEAST_IMAGES if kind == "image_class" else LEAST_BOXES) / num_images


def named(classes, names):
    """Classes by name, else by number: list of str."""
    return [str(names[c]) if c < len(names) else f"class {c}" for c in classes]
