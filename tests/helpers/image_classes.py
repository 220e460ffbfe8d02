"""Folders of small images, one sub-folder for each class, and a tiny classifier's config."""

from pathlib import Path

import numpy as np

from helpers.data import COLORS, write_image

CLASSES = ("blue", "green", "red")  # sorted, as folders are


def write_class_folders(root, number=4, side=20, seed=0):
    """``source`` and ``target`` below ``root``: a coloured square on noise; the target is in haze."""
    rng = np.random.default_rng(seed)
    for domain in ("source", "target"):
        for name, color in zip(CLASSES, reversed(COLORS)):
            for i in range(number):
                picture = rng.integers(0, 60, (side, side + 4, 3)).astype(float)
                picture[5:15, 5:15] = color
                picture = picture * 0.9 + 20 if domain == "target" else picture
                write_image(Path(root) / domain / name / f"{i}.png", picture.astype(np.uint8))


def tiny_options(root, *pairs):
    """``KEY VALUE`` pairs of a tiny MIC with an ImageClassifier on :func:`write_class_folders`."""
    sets = {name: {"IMAGES": str(Path(root) / name), "CLASS_FOLDERS": True} for name in ("source", "target")}
    return [
        "MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "MIC", "MODEL.MIC.STUDENT", "ImageClassifier",
        "MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.RESNETS.DEPTH", 50,
        "MODEL.RESNETS.RES2_OUT_CHANNELS", 16, "MODEL.RESNETS.WIDTH_PER_GROUP", 4,
        "MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.NORM", "LN", "MODEL.RESNETS.OUT_FEATURES", ["res2"],
        "MODEL.IMAGE_CLASSIFIER.NUM_CLASSES", 3, "MODEL.IMAGE_CLASSIFIER.BOTTLENECK", 6,
        "MODEL.IMAGE_CLASSIFIER.NORM", "LN", "MODEL.PIXEL_STD", [60.0, 60.0, 60.0], "INPUT.FORMAT", "RGB",
        "INPUT.IMAGE_CLASS.SIZE", 18, "INPUT.IMAGE_CLASS.CROP", 16, "MODEL.MIC.MASK.BLOCK_SIZE", 4,
        "DATASETS.CUSTOM", sets, "DATASETS.TRAIN", ("source",), "DATASETS.TARGET", ("target",),
        "DATASETS.TEST", ("target",), "DATALOADER.NUM_WORKERS", 0, "DATALOADER.ASPECT_RATIO_GROUPING", False,
        "SOLVER.IMS_PER_BATCH", 4, "SOLVER.IMS_PER_BATCH_TARGET", 4, "SEED", 1, *pairs,
    ]  # fmt: skip
