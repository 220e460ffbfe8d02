"""From a dataset dict to what the model takes."""

from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import SizeMismatchError
from PIL import Image

from ..label_kinds import label_kinds
from .catalog import DataError
from .margins import RecordedAugmentations
from .pixels import check_image_pixels, check_label_pixels


class DomainMapper(DatasetMapper):
    """Detectron2's mapper, which also says which domain an image is from.

    A target image is decoded and transformed once; the teacher sees it as it is, and the student's
    view is made from it on the device, so both have the same geometry. Annotations of target images
    are dropped before anything else sees them. With ``MODEL.MIC.SEM_SEG.MARGINS``, ``"valid_pixels"`` (H, W) bool says
    which pixels of a target image lie outside its margins, wherever crop, resizing and flip have brought them.
    """

    def __init__(self, cfg, is_train=True, domain="source"):
        super().__init__(**DatasetMapper.from_config(cfg, is_train))
        self.domain = domain
        self.has_pixels = "pixels" in label_kinds(cfg)
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

    def __call__(self, dataset_dict):
        """
        Raises:
            DataError: where the image or its label map cannot be read, has another size than annotated, or has
                no pixel outside the margins.
        """
        if self.domain == "target":
            unlabelled = ("file_name", "image_id", "height", "width")
            dataset_dict = {k: v for k, v in dataset_dict.items() if k in unlabelled}
        elif not self.sem_seg:  # label maps are for training a segmentation head
            dataset_dict = {k: v for k, v in dataset_dict.items() if k != "sem_seg_file_name"}
        try:
            check_image_pixels(dataset_dict["file_name"])
            if "sem_seg_file_name" in dataset_dict:
                check_label_pixels(dataset_dict["sem_seg_file_name"])
            mapped = super().__call__(dataset_dict)
        except SizeMismatchError as e:
            raise DataError(self._annotated_size_error(dataset_dict)) from e
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as e:  # of broken files
            label_map = dataset_dict.get("sem_seg_file_name")
            also = f" or its label map {label_map}" if label_map else ""
            raise DataError(
                f"cannot read image {dataset_dict['file_name']}{also} ({e}). Replace it, or remove it from the set."
            ) from e
        except AssertionError as e:  # of Detectron2's transforms, which take image and label map together
            if "sem_seg_file_name" not in dataset_dict:
                raise
            raise DataError(self._size_error(dataset_dict, dataset_dict["sem_seg_file_name"])) from e
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

    @staticmethod
    def _annotated_size_error(x):
        with Image.open(x["file_name"]) as image:
            size = image.size
        return (
            f"image {x['file_name']} is {size[0]} x {size[1]} pixels, annotated as {x['width']} x {x['height']}. "
            "Do images and annotations belong together?"
        )

    @staticmethod
    def _size_error(x, file):
        return f"label map {file} is not of the size of its image {x['file_name']}. Replace it."
