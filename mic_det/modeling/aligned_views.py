"""What the domain classifiers see of a step: source and whole target images, and regions of both."""

import torch
from detectron2.utils.events import get_event_storage

from .regions import Regions, unlabelled_regions
from .rows import image_rows


def alignment_losses(alignment, student, images, features, num_source, source_regions, step):
    """L_T of source images, then whole target images (SADA); logs the accuracies.

    Masked views are not aligned: those of the source are not hidden, so the patches would give the domain away.

    Args:
        alignment (DomainAlignment), student (nn.Module): whose features are aligned.
        images (ImageList), features (dict): of the N images that the classifiers see.
        num_source (int): how many of them are of the source; they come first.
        source_regions (Regions): of L_S on source images, where the classifiers see these (``"published"``); or None.
        step (int): optimizer steps taken so far.

    Returns:
        dict[str, Tensor]: scalars ``align/loss_image``, ``align/loss_instance``, ``align/loss_consistency``.
    """
    regions = None
    if alignment.instance is not None:
        start = 0 if source_regions is None else num_source  # of the images whose regions are drawn here
        parts = [] if source_regions is None else [source_regions]
        if start < len(images):
            views = image_rows(images, start, len(images)), image_rows(features, start, len(images))
            parts.append(unlabelled_regions(student, *views, alignment.regions_per_image))
        regions = Regions.join(parts)
    is_target = [i >= num_source for i in range(len(images))]
    losses, accuracies = alignment(images.image_sizes, features, is_target, regions, step)
    values = torch.stack(list(accuracies.values())).tolist()  # one transfer for all
    for name, value in zip(accuracies, values):
        if value == value:  # NaN: no region of one domain on that level
            get_event_storage().put_scalar(f"align/{name}", value)
    return {f"align/{k}": v for k, v in losses.items()}
