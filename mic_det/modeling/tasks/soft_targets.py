"""Soft targets: the student is compared with the teacher's whole outputs on the same anchors and the same regions.

Each soft loss is the mean of the hard loss over the labels that the teacher thinks possible, y ~ p_T:

- objectness: p log-loss of both labels, BCE(sigma(z_S), sigma(z_T));
- classes: -sum_k p_T(k) log p_S(k), background included;
- boxes: sum_k p_T(k) distance(deltas_S^k, deltas_T^k) over the classes without background. A region weighs what the
  teacher believes to be an object in it, so no threshold decides which regions are foreground.

With a one-hot teacher these are the hard losses with q = 1, and where student and teacher agree their gradient is 0. A
quality weight has no place in them: a teacher that is unsure asks the student to be unsure.
"""

import torch


@torch.no_grad()
def teacher_anchors(sampled, views, shapes):
    """The teacher's outputs for sampled anchors.

    Args:
        sampled (SampledAnchors): of N images.
        views (MaskedViews): with a ``soft_teacher``.
        shapes (list[(int, int)]): sizes of the student's feature maps.

    Returns:
        (Tensor, Tensor, Tensor): whether the teacher is the target (N, 1), its logits (N, S), -inf where it has no such
        anchor, and its deltas (N, S, B). Both are 0 for images with true labels.
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
    """The teacher's outputs for N images' regions (R_i, 4), which it is asked about where an image is used.

    Returns:
        (Tensor, Tensor, Tensor): whether the teacher is the target (R,), class probabilities (R, K + 1), background
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
