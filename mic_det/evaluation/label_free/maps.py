"""The criteria of label maps and of image classes: rows of the same statistics, from probabilities of places.

A place is a pixel. For an image classifier, the whole image is the only place. ``criteria.py`` makes values of the
rows. Each place counts alike, so rare classes count by their share of places, except in agreement, a mean over classes.
"""

import math

import numpy as np
import torch
from detectron2.modeling import SemanticSegmentor

from ...modeling.tasks import ImageClassTask
from .passes import flipped, masked, noisy_copy


def predicts_boxes(model):
    """Whether a model's boxes are measured; else it is one of label maps alone, or of image classes."""
    return not (isinstance(model, SemanticSegmentor) or ImageClassTask.applies_to(model))


@torch.no_grad()
def probabilities(model, image):
    """Class probabilities of each place, as a Tensor (K, H, W) of pixels or (K, 1, 1) of the image.

    Args:
        model (nn.Module): a segmentor or an image classifier, in eval mode.
        image (Tensor): (3, H, W) as mappers give it.
    """
    (output,) = model([{"image": image}])
    if "image_class" in output:
        return output["image_class"].float()[:, None, None]
    return output["sem_seg"].float().softmax(dim=0)


def agreement_row(first, second):
    """How much two predictions agree, class by class and weighted by probabilities: (2 K,).

    The score s of a place is the probability of its most probable class. For each class: 2 sum min(s, s') over the
    places that both predictions give this class, then sum s + sum s' over its places in each; both by the number of
    places. It is the agreement of boxes, with places instead of pairs.

    Args:
        first, second (Tensor): (K, H, W) probabilities.
    """
    num_classes = len(first)
    (s, a), (t, b) = (x.flatten(1).max(dim=0) for x in (first, second))
    same = a == b
    agreed = _by_class(a[same], torch.minimum(s, t)[same], num_classes)
    total = _by_class(a, s, num_classes) + _by_class(b, t, num_classes)
    return torch.cat([2 * agreed, total]) / a.numel()


def _by_class(classes, weights, num_classes):
    return torch.bincount(classes, weights.double(), minlength=num_classes)


def drift_row(first, second):
    """Mean KL divergence of a place's distribution from that of another prediction, and 1 for the image: (2,)."""
    p, q = (x.flatten(1).double().clamp(min=1e-8) for x in (first, second))
    return _with_one((p * (p / q).log()).sum(dim=0).mean())


def entropy_row(first):
    """Mean entropy of a place's distribution, in units of log K, and 1 for the image: (2,)."""
    return _with_one(_entropies(first).mean() / math.log(max(2, len(first))))


def class_mass_row(first):
    """Mean distribution of places, mean of their entropies in nats, and 1 for the image: (K + 2,)."""
    return _with_one(first.flatten(1).double().mean(dim=1), _entropies(first).mean())


def score_row(first):
    """Mean probability of a place's most probable class, and 1 for the image: (2,)."""
    return _with_one(first.flatten(1).double().max(dim=0).values.mean())


def _entropies(first):
    p = first.flatten(1).double()
    return -(p * p.clamp(min=1e-12).log()).sum(dim=0)


def _with_one(*values):
    values = torch.cat([x.reshape(-1) for x in values])
    return torch.cat([values, values.new_ones(1)])


# Criterion -> the view that the whole image is compared with, or "", and the row. The criteria of NMS, of box features
# and of box counts have no counterpart here.
ROWS = {
    "flip_agreement": ("flip", agreement_row),
    "mask_agreement": ("masked", agreement_row),
    "student_agreement": ("other", agreement_row),
    "weight_noise": ("noise", drift_row),
    "entropy": ("", entropy_row),
    "information": ("", class_mass_row),
    "mean_score": ("", score_row),
}


def map_rows(model, images, other=None, criteria=tuple(ROWS), after_image=None):
    """Statistics of the criteria that can be measured of a model without boxes.

    Args:
        model (nn.Module): in eval mode.
        images (list[(str, Tensor)]): N names and (3, H, W) images.
        other (nn.Module): the model of the view "other"; None leaves its criterion out.
        criteria (sequence of str): names; those without a row here are left out.
        after_image (callable): called after each image.

    Returns:
        dict[str, ndarray]: (N, k) of each criterion.
    """
    used = [name for name in criteria if name in ROWS and (ROWS[name][0] != "other" or other is not None)]
    wanted = {ROWS[name][0] for name in used} - {""}
    noisy = noisy_copy(model) if "noise" in wanted else None
    passes = {
        "flip": lambda name, image: probabilities(model, flipped(image)).flip(-1),
        "masked": lambda name, image: probabilities(model, masked(model, image, name)),
        "other": lambda name, image: probabilities(other, image),
        "noise": lambda name, image: probabilities(noisy, image),
    }
    rows = {name: [] for name in used}
    for name, image in images:
        whole = probabilities(model, image)
        views = {view: (passes[view](name, image),) for view in wanted}
        for criterion in used:
            view, row = ROWS[criterion]
            rows[criterion].append(row(whole, *views.get(view, ())).cpu().numpy())
        if after_image:
            after_image()
    return {name: np.array(x) for name, x in rows.items()}
