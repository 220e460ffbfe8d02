"""Batches for timing: of the config's own data sets where they are there, else made up."""

import itertools

import torch
from detectron2.data import DatasetCatalog, detection_utils
from detectron2.structures import Boxes, Instances

from ..config.label_kinds import num_classes
from ..config.models import is_label_free
from ..data.labeller import LABELLER, labeller_instances
from ..data.loader import build_mic_train_loader
from ..errors import DataError

BOXES_PER_IMAGE = 10
NOISE = "noise"


def image_size(cfg):
    """(height, width) of made-up images: the largest that the config trains on."""
    short = max(cfg.INPUT.MIN_SIZE_TRAIN)
    return short, max(short, min(2 * short, cfg.INPUT.MAX_SIZE_TRAIN))


def synthetic_batch(cfg, size=None, generator=None):
    """One training batch of noise with random boxes and label maps.

    Args:
        cfg (CfgNode): numbers of images (``SOLVER.IMS_PER_BATCH`` and ``IMS_PER_BATCH_TARGET``) and classes.
        size ((int, int)): height and width in pixels; None = :func:`image_size`.

    Returns:
        list[dict]: as the training loader makes them.
    """
    size = size or image_size(cfg)
    domains = ["source"] * (0 if is_label_free(cfg) else cfg.SOLVER.IMS_PER_BATCH)
    domains += ["target"] * cfg.SOLVER.IMS_PER_BATCH_TARGET
    batch = []
    for domain in domains:
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
        x = {"image": image, "height": size[0], "width": size[1], "domain": domain}
        if domain == "target" and any(cfg.MODEL.MIC.SEM_SEG.MARGINS):
            x["valid_pixels"] = torch.ones(size, dtype=torch.bool)
        if domain == "target" and cfg.MODEL.MIC.LABELLER.JSON:
            x[LABELLER] = labeller_instances([], size)
        batch.append(x)
    return with_labels(cfg, batch, generator)


def with_labels(cfg, batch, generator=None):
    """The batch with random boxes and label maps where images have none, target images too."""
    return [{**_labels(cfg, x["image"].shape[-2:], generator), **x} for x in batch]


def _labels(cfg, size, generator):
    height, width = size
    extent = torch.tensor([width, height], dtype=torch.float32)
    corner = torch.rand(BOXES_PER_IMAGE, 2, generator=generator) * extent * 0.75
    box = torch.cat([corner, corner + (0.05 + 0.2 * torch.rand(BOXES_PER_IMAGE, 2, generator=generator)) * extent], 1)
    classes = torch.randint(0, num_classes(cfg), (BOXES_PER_IMAGE,), generator=generator)
    grid = (-(-height // 32), -(-width // 32))
    cells = torch.randint(0, num_classes(cfg, "pixels"), grid, generator=generator)
    return {
        "instances": Instances((height, width), gt_boxes=Boxes(box), gt_classes=classes),
        "sem_seg": cells.repeat_interleave(32, 0).repeat_interleave(32, 1)[:height, :width].contiguous(),
    }


def has_training_sets(cfg):
    """Whether the images of ``DATASETS.TRAIN`` and ``TARGET`` are on this machine."""
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TARGET]
    return bool(cfg.DATASETS.TRAIN) and all(map(is_there, names))


def is_there(name):
    """Whether the first image of a data set can be read."""
    try:
        first = DatasetCatalog.get(name)[0]
        detection_utils.read_image(first["file_name"])
    except (KeyError, IndexError, OSError, DataError):
        return False
    return True


def make_batches(cfg, count, size=None, synthetic=False):
    """``count`` training batches, in which every image has labels.

    Returns:
        (list[list[dict]], str): batches, and where they are from.
    """
    generator = torch.Generator().manual_seed(0)
    if size is None and not synthetic and has_training_sets(cfg):
        real = itertools.islice(build_mic_train_loader(cfg), count)
        return [with_labels(cfg, batch, generator) for batch in real], "images of " + ", ".join(cfg.DATASETS.TRAIN)
    return [synthetic_batch(cfg, size, generator) for _ in range(count)], NOISE
