"""From a dataset dict to what the model takes."""

from detectron2.data import DatasetMapper

from .catalog import DataError


class DomainMapper(DatasetMapper):
    """Detectron2's mapper, which also says which domain an image is from.

    A target image is decoded and transformed once; the teacher sees it as it is, and the student's
    view is made from it on the device, so both have the same geometry. Annotations of target images
    are dropped before anything else sees them.
    """

    def __init__(self, cfg, is_train=True, domain="source"):
        super().__init__(**DatasetMapper.from_config(cfg, is_train))
        self.domain = domain

    def __call__(self, dataset_dict):
        """
        Raises:
            DataError: where the image cannot be read, or has another size than annotated.
        """
        if self.domain == "target":
            unlabelled = ("file_name", "image_id", "height", "width")
            dataset_dict = {k: v for k, v in dataset_dict.items() if k in unlabelled}
        else:  # label maps are for segmentation heads: a detector does not read them
            dataset_dict = {k: v for k, v in dataset_dict.items() if k != "sem_seg_file_name"}
        try:
            mapped = super().__call__(dataset_dict)
        except (OSError, SyntaxError, ValueError) as e:  # PIL raises all three for broken files
            raise DataError(
                f"cannot read image {dataset_dict['file_name']} ({e}). Replace it, or remove it from the data set."
            ) from e
        return {**mapped, "domain": self.domain}
