"""mIoU of label maps, which are checked as they are read."""

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import SemSegEvaluator

from ..errors import DataError
from ..utils.ordinary_files import open_picture


class LabelMapEvaluator(SemSegEvaluator):
    """Detectron2's evaluator: mIoU and IoU of each class; classes without a pixel of truth do not count.

    Boundary IoU, which nobody reports here, is left out. The set's metadata ``means`` (dict) adds means over some
    classes: names of classes by name of metric. SYNTHIA has 16 of Cityscapes' 19 classes: ``mIoU`` is that of 16 there.
    """

    def __init__(self, dataset_name, distributed=True, output_dir=None):
        super().__init__(dataset_name, distributed, output_dir, sem_seg_loading_fn=self._read)
        self._compute_boundary_iou = False

    def evaluate(self):
        """See Detectron2."""
        results = super().evaluate()
        for metric, names in (MetadataCatalog.get(self._dataset_name).get("means") or {}).items() if results else ():
            found = [results["sem_seg"][f"IoU-{name}"] for name in names]
            results["sem_seg"][metric] = float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")
        return results

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
