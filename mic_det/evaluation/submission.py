"""Label maps of a test set without labels, as the benchmark's server takes them."""

import logging
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..data.datasets.cityscapes_labels import LABELS, SEM_SEG_CLASSES
from ..errors import DataError
from ..utils.parallel import write_png

# folder and value of each train id, by the metadata's "submission"
FORMATS = {
    "train_ids": ("labelTrainIds", range(len(SEM_SEG_CLASSES))),
    "label_ids": ("labelIds", [LABELS[name][0] for name in SEM_SEG_CLASSES]),
}


def is_submission(dataset_name):
    """Whether a set is a test set without labels, whose predictions go to a server."""
    return bool(MetadataCatalog.get(dataset_name).get("submission"))


class SubmissionFiles(DatasetEvaluator):
    """Writes one 8-bit PNG file per image, of the image's name and size, into one folder. There are no metrics.

    ACDC and Dark Zurich take train ids, and Cityscapes takes label ids.
    """

    def __init__(self, dataset_name, output_dir):
        """
        Args:
            dataset_name (str): a registered set whose metadata has ``submission``.
            output_dir (path): the files are in ``labelTrainIds`` or ``labelIds`` below it.
        """
        folder, values = FORMATS[MetadataCatalog.get(dataset_name).submission]
        self.name, self.folder, self.values = dataset_name, Path(output_dir) / folder, np.asarray(values, np.uint8)
        self.written = {}

    def reset(self):
        """See Detectron2."""
        self.written = {}

    def process(self, inputs, outputs):
        """See Detectron2; ``"sem_seg"`` is (K, H, W) at the size of the original image.

        Raises:
            DataError: where two images have one name.
        """
        for x, output in zip(inputs, outputs):
            name = Path(x["file_name"]).with_suffix(".png").name
            if self.written.setdefault(name, x["file_name"]) != x["file_name"]:
                raise DataError(
                    f"{self.name}: {self.written[name]} and {x['file_name']} have one name, and the server takes one "
                    "folder of files. Remove the copy."
                )
            labels = output["sem_seg"].argmax(dim=0).cpu().numpy()
            write_png(self.folder / name, self.values[labels])

    def evaluate(self):
        """See Detectron2; no metrics."""
        count = len({name for names in comm.gather(set(self.written)) for name in names})
        if comm.is_main_process():
            text = "%s has no labels. %d label maps for its server are in %s."
            logging.getLogger(__name__).info(text, self.name, count, self.folder)
        return {}
