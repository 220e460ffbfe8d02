"""mIoU of label maps, which are checked as they are read."""

import numpy as np
from detectron2.evaluation import SemSegEvaluator

from ..errors import DataError
from ..utils.ordinary_files import open_picture


class LabelMapEvaluator(SemSegEvaluator):
    """Detectron2's evaluator: mIoU and IoU of each class; classes without a pixel of truth do not count.

    Boundary IoU, which nobody reports here, is left out.
    """

    def __init__(self, dataset_name, distributed=True, output_dir=None):
        super().__init__(dataset_name, distributed, output_dir, sem_seg_loading_fn=self._read)
        self._compute_boundary_iou = False

    def _read(self, file, dtype=int):
        """A label map (H, W).

        Raises:
            DataError: where it cannot be read or has labels beyond the classes; names it.
        """
        try:
            with open_picture(file) as opened:
                labels = np.array(opened).astype(dtype)
        except (OSError, SyntaxError) as e:
            raise DataError(f"label map {file} cannot be read ({e}). Replace it.") from e
        wrong = labels[(labels != self._ignore_label) & (labels >= self._num_classes)]
        if labels.ndim != 2 or wrong.size:
            what = f"has the label {wrong[0]}" if wrong.size else f"has the shape {labels.shape}"
            raise DataError(f"label map {file} {what}, but there are {self._num_classes} classes. Replace it.")
        return labels
