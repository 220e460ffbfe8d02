"""Soft targets: the student is compared with the teacher's whole outputs on the same anchors and regions.

Each soft loss is the mean of the hard loss over the teacher's distribution of labels, y ~ p_T:

- objectness: BCE(sigma(z_S), sigma(z_T));
- classes: -sum_k p_T(k) log p_S(k), including background;
- boxes: sum_k p_T(k) distance(deltas_S^k, deltas_T^k) over the classes without background. The teacher's probability of
  an object weights a region, so no threshold decides which regions are foreground.

With a one-hot teacher these are the hard losses with q = 1. Where student and teacher agree, their gradient is 0. They
need no quality weight: where the teacher is unsure, the target is an unsure prediction.
"""

import torch


@torch.no_grad()
def teacher_anchors(sampled, views, shapes):
    """The teacher's outputs for sampled anchors.

    Args:
        sampled (SampledAnchors): anchors of N images.
        views (MaskedViews): the images, with a ``soft_teacher``.
        shapes (list[(int, int)]): sizes of the student's feature maps.

    Returns:
        (Tensor, Tensor, Tensor): whether the teacher is the target (N, 1), its logits (N, S), which are -inf where it
        does not have the anchor, and its deltas (N, S, B). Both are 0 for images with true labels.
    """
    outputs = zip(*views.soft_teacher.anchor_outputs(shapes))
    soft, logits, deltas = [], [], []
    for true, rows, x in zip(views.has_true_labels(), sampled.rows, sampled.deltas):
        z, d = (sampled.logits.new_zeros(1), x.new_zeros(1, x.shape[1]).float()) if true else next(outputs)
        rows = torch.zeros_like(rows) if true else rows
        soft.append(torch.full_like(rows[:1], not true, dtype=torch.bool))
        logits.append(z[rows])
        deltas.append(d[rows])
    return torch.stack(soft), torch.stack(logits), torch.stack(deltas)


@torch.no_grad()
def teacher_classes(boxes, views):
    """The teacher's outputs for the regions (R_i, 4) of N images.

    Only used images need a prediction of the teacher.

    Returns:
        (Tensor, Tensor, Tensor): whether the teacher is the target (R,), class probabilities (R, K + 1) with background
        last, and deltas (R, 1 or K, 4). Both are 0 where the teacher is not the target.
    """
    asked = views.of_pseudo_labelled(views.asked(boxes))
    outputs = zip(*views.soft_teacher.class_outputs(asked))
    soft, probs, deltas = [], [], []
    for true, used, b in zip(views.has_true_labels(), views.used, boxes):
        p, d = (None, None) if true else next(outputs)
        soft.append(torch.full_like(b[:, 0], used and not true, dtype=torch.bool))
        probs.append(p)
        deltas.append(d)
    return torch.cat(soft), _joined(probs, boxes), _joined(deltas, boxes).unflatten(1, (-1, 4))


def _joined(outputs, boxes):
    """Outputs (R_i, C) of N images as (R, C); 0 for the regions of an image that has none."""
    size = next(x.shape[1] for x in outputs if x is not None)
    return torch.cat(
        [b.new_zeros(len(b), size) if x is None or not len(x) else x.float() for x, b in zip(outputs, boxes)]
    )
