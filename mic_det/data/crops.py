"""Random crops with an eye on their labels: no class covers nearly all, and a class that was drawn is in them."""

import numpy as np
from detectron2.data import transforms as T

RARE_CLASS_SAMPLER = "RareClassSampler"
TRIES = 10  # as many as Detectron2's crop with a limit has, and DAFormer's


class LabelledCrop(T.Augmentation):
    """Detectron2's crop with a limit of a class's area, drawn again until it has enough of the ``wanted`` class.

    Images without a label map are cropped at random.
    """

    def __init__(self, crop_type, crop_size, max_area, ignore_value, min_pixels):
        """
        Args:
            crop_type (str), crop_size: as of Detectron2's ``RandomCrop``.
            max_area (float): largest share of a crop's labelled pixels that one class may cover; 1 = no limit.
            ignore_value (int): the label of pixels that do not count.
            min_pixels (int): a crop has enough of the wanted class where more than this number of pixels are of it.
        """
        super().__init__()
        self.crop = T.RandomCrop_CategoryAreaConstraint(crop_type, crop_size, max_area, ignore_value)
        self.min_pixels = min_pixels
        self.wanted = None  # the class of the next image

    def get_transform(self, image, sem_seg=None):
        if sem_seg is None:
            return self.crop.crop_aug.get_transform(image)
        crop = self.crop.get_transform(image, sem_seg)
        for _ in range(TRIES):
            if self.wanted is None or np.sum(crop.apply_segmentation(sem_seg) == self.wanted) > self.min_pixels:
                break
            crop = self.crop.get_transform(image, sem_seg)
        return crop


def of_domain(cfg, domain):
    """The config with the sizes of a domain's images as its sizes in training."""
    sizes, limit = cfg.INPUT.MIN_SIZE_TRAIN_TARGET, cfg.INPUT.MAX_SIZE_TRAIN_TARGET
    if domain == "source" or not (sizes or limit):
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TRAIN = sizes or cfg.INPUT.MIN_SIZE_TRAIN
    cfg.INPUT.MAX_SIZE_TRAIN = limit or cfg.INPUT.MAX_SIZE_TRAIN
    return cfg


def with_labelled_crop(cfg, augmentations):
    """Detectron2's augmentations in training, with its ``INPUT.CROP`` where and as mic_det's keys say.

    Returns:
        (list[Augmentation], LabelledCrop or None): None where it is Detectron2's own crop, or there is none.
    """
    crop, rare = cfg.INPUT.CROP, cfg.DATALOADER.SAMPLER_TRAIN == RARE_CLASS_SAMPLER
    if not crop.ENABLED:
        return augmentations, None
    first, others = augmentations[0], list(augmentations[1:])  # Detectron2 puts the crop first
    labelled = None
    if crop.SINGLE_CATEGORY_MAX_AREA < 1 or rare:
        first = labelled = LabelledCrop(
            crop.TYPE, crop.SIZE, crop.SINGLE_CATEGORY_MAX_AREA, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            cfg.DATALOADER.RARE_CLASSES.MIN_CROP_PIXELS,
        )  # fmt: skip
    place = 1 if crop.AFTER_RESIZE else 0  # the first of the others is the resizing
    return [*others[:place], first, *others[place:]], labelled
