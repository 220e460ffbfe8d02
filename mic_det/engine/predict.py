"""A trained detector as a function of one image, and the names of its classes."""

import logging

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation

from ..config import ConfigError, student_architecture
from ..data.catalog import DataError
from ..label_kinds import box_keys, label_kinds, num_classes
from .checkpoint import MICCheckpointer
from .trainer import MICTrainer


def load_model(cfg, weights=None, trust_checkpoint=False):
    """The config's model with the weights of ``MODEL.WEIGHTS`` (or of a file), in eval mode.

    Raises:
        ConfigError: where no weights are named.
        CheckpointError: where the file cannot be used, or fills only a part of the model.
    """
    weights = weights or cfg.MODEL.WEIGHTS
    if not weights:
        raise ConfigError("MODEL.WEIGHTS is empty: name the checkpoint of a trained model.")
    model = MICTrainer.build_model(cfg).eval()
    MICCheckpointer.from_config(cfg, model, complete=True, trust=trust_checkpoint).load(weights)
    return model


class Predictor:
    """As Detectron2's DefaultPredictor, for MIC too and with mic_det's checks of the weights.

    MIC answers as ``MODEL.MIC.EVALUATE`` says: the teacher or the student.
    """

    def __init__(self, cfg, score_threshold=0.5, trust_checkpoint=False):
        """
        Args:
            score_threshold (float): least score of a box, in [0, 1]; may be below
                ``MODEL.ROI_HEADS.SCORE_THRESH_TEST`` (of RetinaNet and FCOS: theirs), which is then lowered to it.

        Raises:
            ConfigError: where the model has no boxes, or no weights are named.
        """
        if "boxes" not in label_kinds(cfg):
            raise ConfigError(f"{student_architecture(cfg)} predicts pixels alone: give the config of a detector.")
        cfg = cfg.clone()
        cfg.defrost()
        keys = box_keys(cfg)
        keys.SCORE_THRESH_TEST = min(keys.SCORE_THRESH_TEST, score_threshold)
        self.score_threshold = score_threshold
        self.input_format = cfg.INPUT.FORMAT
        self.resize = T.AugmentationList(build_augmentation(cfg, is_train=False))  # the size of evaluation
        self.model = load_model(cfg, trust_checkpoint=trust_checkpoint)

    @torch.no_grad()
    def __call__(self, rgb):
        """
        Args:
            rgb (ndarray): (H, W, 3) uint8.

        Returns:
            Instances: ``pred_boxes`` (XYXY pixels of ``rgb``), ``scores`` and ``pred_classes``, on the CPU,
            sorted by descending score.
        """
        height, width = rgb.shape[:2]
        data = T.AugInput(rgb if self.input_format == "RGB" else rgb[:, :, ::-1].copy())
        self.resize(data)
        image = torch.as_tensor(data.image.transpose(2, 0, 1).copy())
        found = self.model([{"image": image, "height": height, "width": width}])[0]["instances"].to("cpu")
        found = found[found.scores >= self.score_threshold]
        return found[found.scores.argsort(descending=True, stable=True)]


def class_list(cfg):
    """Ids (as in the annotation files) and names of the classes, from the first set that can tell.

    The data need not be there: without any, classes are called by their number, counted from 1.

    Returns:
        list[(int, str)]: one for each class of boxes; none where the model has pixels alone.
    """
    if "boxes" not in label_kinds(cfg):
        return []
    count = num_classes(cfg)
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        try:
            if not MetadataCatalog.get(name).get("thing_classes") and name in DatasetCatalog.list():
                DatasetCatalog.get(name)  # the names are known once it has been read
        except (DataError, OSError):
            continue
        names = MetadataCatalog.get(name).get("thing_classes") or ()
        if len(names) == count:
            ids = MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id") or {}
            ids = {v: k for k, v in ids.items()}
            return [(int(ids.get(i, i + 1)), str(n)) for i, n in enumerate(names)]
    logging.getLogger(__name__).warning("No set of DATASETS can be read to name the classes: numbers are used.")
    return [(i + 1, f"class {i + 1}") for i in range(count)]
