"""From a dataset dict to what the model takes."""

import contextlib
import copy

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import transform_instance_annotations
from PIL import Image

from ..config.keypoint_rules import predicts_keypoints
from ..config.label_kinds import label_kinds
from ..errors import DataError
from .class_crops import class_augmentations
from .crops import of_domain, with_labelled_crop
from .keypoints import hflip_indices, without_gaps
from .labeller import LABELLER, labeller_instances
from .margins import RecordedAugmentations
from .pixels import (
    ImageError,
    Resize,
    annotated_size,
    check_image,
    check_label_map,
    upright_size,
)


class _AnnotationFailure(Exception):
    """Detectron2 could not transform or collect annotations; args: the transforms and the image's (height, width)."""


# What is kept of an unlabelled target image's dict: all else may be labels, and the image itself has its size
UNLABELLED_KEYS = ("file_name", "image_id", LABELLER)


def without_keypoints(cfg):
    """The config without ``MODEL.KEYPOINT_ON``, with which Detectron2's mapper needs the names of the keypoints, even
    for images without labels."""
    if not cfg.MODEL.KEYPOINT_ON:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.KEYPOINT_ON = False
    return cfg


def without_labels(dataset_dict):
    """The dict of an image without its annotations, label maps and whatever else could tell them."""
    return {k: v for k, v in dataset_dict.items() if k in UNLABELLED_KEYS}


class OfDomain:
    """Another mapper for one of the domains: labels of the domain "target" never reach it, and it adds ``"domain"``.

    Detectron2's ``DatasetMapper`` can be one, or any function from a dataset dict to what the model takes. The
    dataset dict that it is given has ``"domain"`` too.
    """

    def __init__(self, mapper, domain):
        """
        Args:
            mapper (callable): dataset dict -> dict.
            domain (str): "source", "target" (without labels) or "labelled_target".
        """
        if not callable(mapper):
            raise TypeError(f"mapper is {mapper!r}: give a function from a dataset dict to what the model takes.")
        self.mapper, self.domain = mapper, domain

    def __call__(self, dataset_dict):
        """
        Raises:
            DataError: where the mapper returns nothing.
        """
        x = without_labels(dataset_dict) if self.domain == "target" else dataset_dict
        mapped = self.mapper({**x, "domain": self.domain})
        if not isinstance(mapped, dict):
            raise DataError(
                f"the mapper returned {type(mapped).__name__} for image {dataset_dict.get('file_name')}, not a dict. "
                "Leave images out of the data set, not in the mapper."
            )
        return {**mapped, "domain": self.domain}


class DomainMapper(DatasetMapper):
    """Detectron2's mapper, which also says which domain an image is from.

    A target image is decoded and transformed once; the teacher sees it as it is, and the student's
    view is made from it on the device, so both have the same geometry. Annotations of target images
    are dropped before anything else sees them. ``"labeller"`` are the boxes of another detector in this image, as
    ``Instances`` (see :mod:`.labeller`), if there is one. With ``MODEL.MIC.SEM_SEG.MARGINS``, ``"valid_pixels"`` (H, W)
    bool says which pixels of a target image lie outside its margins, wherever crop, resizing and flip brought them.
    """

    def __init__(self, cfg: CfgNode, is_train: bool = True, domain: str = "source") -> None:
        """
        Args:
            cfg (CfgNode): a config with mic_det's keys.
            is_train (bool): whether images are changed at random and labels kept, or as evaluation needs them.
            domain (str): "source", "target" (without labels) or "labelled_target".
        """
        cfg = of_domain(cfg, domain)
        keys = DatasetMapper.from_config(without_keypoints(cfg), is_train)
        self.crop, kinds = None, label_kinds(cfg)
        if kinds == ("image_class",):
            keys["augmentations"] = class_augmentations(cfg, is_train)
        elif is_train:
            keys["augmentations"], self.crop = with_labelled_crop(cfg, keys["augmentations"])
        super().__init__(**keys)
        self.use_keypoint, self.num_keypoints = predicts_keypoints(cfg), cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
        if self.use_keypoint and is_train and domain != "target" and cfg.DATASETS.TRAIN:
            self.keypoint_hflip_indices = hflip_indices(cfg.DATASETS.TRAIN[0])
        self.domain, self.resize = domain, Resize.from_config(cfg, is_train)
        self.has_pixels = "pixels" in kinds
        self.sem_seg = is_train and self.has_pixels
        self.num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        self.ignore_value = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        self.margins = ()
        if domain == "target":  # source images have true labels, which count everywhere
            self._add_margins(cfg)

    @classmethod
    def with_truth(cls, cfg):
        """A mapper for pictures: images at the size of evaluation, unchanged, with all the truth that there is."""
        mapper = cls(cfg, is_train=False)
        mapper.is_train, mapper.sem_seg = True, mapper.has_pixels
        mapper._add_margins(cfg)
        return mapper

    def _add_margins(self, cfg):
        if self.has_pixels and any(cfg.MODEL.MIC.SEM_SEG.MARGINS):
            self.margins = tuple(cfg.MODEL.MIC.SEM_SEG.MARGINS)
            self.augmentations = RecordedAugmentations(self.augmentations)

    def __call__(self, dataset_dict: dict) -> dict:
        """
        Raises:
            DataError: where the image, its label map or an annotation cannot be used, or no pixel is outside the
                margins; names it, and says why.
        """
        if self.domain == "target":
            dataset_dict = without_labels(dataset_dict)
            if LABELLER in dataset_dict:  # Detectron2 transforms annotations along with their image
                dataset_dict["annotations"] = dataset_dict.pop(LABELLER)
        elif not self.sem_seg:  # label maps are for training a segmentation head
            dataset_dict = {k: v for k, v in dataset_dict.items() if k != "sem_seg_file_name"}
        file, label_map = dataset_dict["file_name"], dataset_dict.get("sem_seg_file_name")
        if self.crop is not None:
            self.crop.wanted = dataset_dict.get("rare_class")
        with _blamed_on(file, "image"):
            check_image(file, resize=self.resize)
        if label_map is not None:
            with _blamed_on(label_map, "label map"):
                check_label_map(label_map)
        try:
            mapped = super().__call__(dataset_dict)
        except _AnnotationFailure as e:
            raise DataError(self._annotation_error(dataset_dict, e)) from e.__cause__
        except Exception as e:  # Detectron2 and PIL raise errors of all kinds, and do not say of which file
            self._blame(dataset_dict, e)
            raise
        if "sem_seg" in mapped:
            self._check_label_map(mapped, dataset_dict["sem_seg_file_name"])
        if self.margins:
            try:
                mapped["valid_pixels"] = self.augmentations.valid_pixels(self.margins)
            except ValueError as e:
                raise DataError(f"image {mapped['file_name']}: {e}") from e
        return {**mapped, "domain": self.domain}

    def _check_label_map(self, mapped, file):
        labels, size = mapped["sem_seg"], tuple(mapped["image"].shape[-2:])
        if tuple(labels.shape) != size:
            raise DataError(self._size_error(mapped, file))
        wrong = labels[(labels != self.ignore_value) & ((labels < 0) | (labels >= self.num_classes))]
        if len(wrong):
            raise DataError(
                f"label map {file} has the label {int(wrong[0])}: MODEL.SEM_SEG_HEAD.NUM_CLASSES is "
                f"{self.num_classes}, and {self.ignore_value} (MODEL.SEM_SEG_HEAD.IGNORE_VALUE) is ignored."
            )

    def _blame(self, x, error):
        """Judge again what Detectron2 has failed with, all of it: a DataError names what is wrong.

        Errors of other origins (code, memory) come through as they are.
        """
        file, label_map = x["file_name"], x.get("sem_seg_file_name")
        with _blamed_on(file, "image"):
            size = check_image(file, annotated_size(x), self.resize, decode=True).size
        if label_map is not None:
            with _blamed_on(label_map, "label map"):
                check_label_map(label_map, decode=True)
                with Image.open(label_map) as opened:
                    if upright_size(opened) != size:
                        raise DataError(self._size_error(x, label_map)) from error
        if isinstance(error, (OSError, ValueError, AssertionError)):
            text = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"image {file} can be read, but not changed as INPUT says ({text}): check INPUT, or remove the image."
            ) from error

    def _transform_annotations(self, dataset_dict, transforms, image_shape):
        if self.domain == "target":
            boxes = dataset_dict.pop("annotations")
            moved = [transform_instance_annotations(x, transforms, image_shape) for x in boxes]
            dataset_dict[LABELLER] = labeller_instances(moved, image_shape)
            return
        if self.use_keypoint:
            without_gaps(dataset_dict["annotations"], self.num_keypoints)
        try:
            for annotation in dataset_dict["annotations"]:  # Detectron2 cuts resized boxes of integers to integers
                annotation["bbox"] = [float(x) for x in annotation["bbox"]]
            super()._transform_annotations(dataset_dict, transforms, image_shape)
        except (AssertionError, LookupError, TypeError, ValueError) as e:
            raise _AnnotationFailure(transforms, image_shape) from e

    def _annotation_error(self, x, failure):
        """What is wrong with which annotation of a dataset dict that :meth:`_transform_annotations` failed with."""
        file, counted = x["file_name"], [a for a in x["annotations"] if not a.get("iscrowd", 0)]
        if self.use_instance_mask:
            without = sum("segmentation" not in a for a in counted)
            if without:
                return (
                    f"{without} of the {len(counted)} boxes of image {file} have no mask, but MODEL.MASK_ON is True: "
                    "add the masks, or set MODEL.MASK_ON False."
                )
            if self.instance_mask_format == "polygon" and any(isinstance(a["segmentation"], dict) for a in counted):
                return (
                    f"masks of image {file} are run-length encoded (RLE), but INPUT.MASK_FORMAT is polygon: set "
                    "INPUT.MASK_FORMAT bitmask."
                )
        for annotation in counted:  # alone, to find the one
            try:
                self._transform_annotations({"annotations": [copy.deepcopy(annotation)]}, *failure.args)
            except _AnnotationFailure as e:
                reason = " ".join(str(e.__cause__.__cause__ or e.__cause__).split())
                return (
                    f"the annotation of the box {list(annotation['bbox'])} in image {file} cannot be used ({reason}): "
                    "correct or remove it."
                )
        reason = " ".join(str(failure.__cause__).split())
        return f"the annotations of image {file} cannot be used together ({reason}): correct them."

    @staticmethod
    def _size_error(x, file):
        return f"label map {file} is not of the size of its image {x['file_name']}. Replace it."


@contextlib.contextmanager
def _blamed_on(file, what):
    try:
        yield
    except ImageError as e:
        if e.unreadable:
            raise DataError(
                f"cannot read {what} {file} ({e.unreadable}). Replace it, or remove it from the set."
            ) from e
        raise DataError(f"{what} {file} {e}.") from e
