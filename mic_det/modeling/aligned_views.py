"""What the domain classifiers see of a step: rows of its merged batch, and regions of each domain."""

import torch
from detectron2.utils.events import get_event_storage

from .regions import Regions, unlabelled_regions
from .rows import image_rows


def alignment_losses(alignment, student, images, features, starts, regions, step):
    """L_T of source images, whole target images and masked ones, in this order (SADA); logs the accuracies.

    Args:
        alignment (DomainAlignment), student (nn.Module): whose features are aligned.
        images (ImageList), features (dict): of the N images that the classifiers see.
        starts ((int, int)): where whole and where masked target images begin.
        regions ((Regions, Regions)): those that other losses have used already, of source images and of
            masked views, or None; the latter may have those of masked source images behind them.
        step (int): optimizer steps taken so far.

    Returns:
        dict[str, Tensor]: scalars ``align/loss_image``, ``align/loss_instance``, ``align/loss_consistency``.
    """
    joined = None
    if alignment.instance is not None:
        parts = [regions[0]]
        for start, end, shared in ((*starts, None), (starts[1], len(images), regions[1])):
            if start < end and shared is not None:
                parts.append(shared.of_images(end - start))
            elif start < end:
                views = image_rows(images, start, end), image_rows(features, start, end)
                parts.append(unlabelled_regions(student, *views, alignment.regions_per_image))
        joined = Regions.join(parts)
    is_target = [i >= starts[0] for i in range(len(images))]
    losses, accuracies = alignment(images.image_sizes, features, is_target, joined, step)
    values = torch.stack(list(accuracies.values())).tolist()  # one transfer for all
    for name, value in zip(accuracies, values):
        if value == value:  # NaN: no region of one domain on that level
            get_event_storage().put_scalar(f"align/{name}", value)
    return {f"align/{k}": v for k, v in losses.items()}
