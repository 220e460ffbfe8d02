"""A trained model as a function of one image, and the names of its classes."""

import logging
from typing import Union

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from detectron2.structures import Instances

from ..checkpoint.checkpointer import MICCheckpointer
from ..config.label_kinds import box_keys, label_kinds, num_classes, refuse_image_classes
from ..data.classes import categories, positions
from ..data.pixels import Resize
from ..errors import ConfigError
from ..modeling.build import build_checked_model


def load_model(cfg, weights=None, trust_checkpoint=False):
    """The config's model with the weights of ``MODEL.WEIGHTS`` (or of a file), in eval mode.

    Raises:
        ConfigError: where no weights are named.
        CheckpointError: where the file cannot be used, or fills only a part of the model.
    """
    return load_with_classes(cfg, weights, trust_checkpoint)[0]


def load_with_classes(cfg, weights=None, trust_checkpoint=False):
    """As :func:`load_model`; and the names of the model's classes where the checkpoint tells them, else None."""
    weights = weights or cfg.MODEL.WEIGHTS
    if not weights:
        raise ConfigError("MODEL.WEIGHTS is empty: name the checkpoint of a trained model.")
    model = build_checked_model(cfg).eval()
    checkpointer = MICCheckpointer.from_config(cfg, model, complete=True, trust=trust_checkpoint)
    checkpointer.load(weights)
    return model, checkpointer.named_classes


class Predictor:
    """As Detectron2's DefaultPredictor, for MIC too and with mic_det's checks of the weights.

    ``MODEL.MIC.EVALUATE`` says which model of MIC predicts: the teacher or the student.

    Attributes:
        has_boxes, has_label_maps (bool): what the model predicts.
    """

    def __init__(self, cfg: CfgNode, score_threshold: float = 0.5, trust_checkpoint: bool = False) -> None:
        """
        Args:
            cfg (CfgNode): of the model, with its ``MODEL.WEIGHTS``.
            score_threshold (float): least score of a box, in [0, 1]; may be below
                ``MODEL.ROI_HEADS.SCORE_THRESH_TEST`` (of RetinaNet and FCOS: theirs), which is then lowered to it.
            trust_checkpoint (bool): run code that is in the file; see :class:`MICCheckpointer`.

        Raises:
            ConfigError: where no weights are named.
            CheckpointError: where the file cannot be used.
        """
        refuse_image_classes(cfg, "The predictor")
        cfg = cfg.clone()
        cfg.defrost()
        keys = box_keys(cfg)
        keys.SCORE_THRESH_TEST = min(keys.SCORE_THRESH_TEST, score_threshold)
        self.score_threshold = score_threshold
        self.input_format = cfg.INPUT.FORMAT
        self.size_rule = Resize.from_config(cfg, is_train=False)
        self.resize = T.AugmentationList(build_augmentation(cfg, is_train=False))  # the size of evaluation
        kinds = label_kinds(cfg)
        self.has_boxes, self.has_label_maps = "boxes" in kinds, "pixels" in kinds
        self.model, self.named_classes = load_with_classes(cfg, None, trust_checkpoint)

    @torch.no_grad()
    def __call__(self, rgb: np.ndarray) -> dict[str, Union[Instances, torch.Tensor]]:
        """
        Args:
            rgb (ndarray): (H, W, 3) uint8.

        Returns:
            dict, on the CPU, of what the model predicts. ``"instances"``: ``pred_boxes`` (XYXY pixels of ``rgb``),
            ``scores`` and ``pred_classes``, sorted by descending score. ``"label_map"``: (H, W) int64, the most
            probable class of each pixel.

        Raises:
            ImageError: where a side of the image would be resized to 0.
        """
        height, width = rgb.shape[:2]
        self.size_rule.check(width, height)
        data = T.AugInput(rgb if self.input_format == "RGB" else rgb[:, :, ::-1].copy())
        self.resize(data)
        image = torch.as_tensor(data.image.transpose(2, 0, 1).copy())
        outputs, found = self.model([{"image": image, "height": height, "width": width}])[0], {}
        if "instances" in outputs:
            boxes = outputs["instances"].to("cpu")
            boxes = boxes[boxes.scores >= self.score_threshold]
            found["instances"] = boxes[boxes.scores.argsort(descending=True, stable=True)]
        if "sem_seg" in outputs:
            found["label_map"] = outputs["sem_seg"].argmax(dim=0).cpu()
        return found


def label_map_classes(cfg):
    """Names of the labels 0, 1, ... of label maps, from the first set that can tell; else "class 0", "class 1", ...

    Returns:
        list[str]: one for each of ``MODEL.SEM_SEG_HEAD.NUM_CLASSES``.
    """
    count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        names = MetadataCatalog.get(name).get("stuff_classes") or ()
        if len(names) == count:
            return [str(n) for n in names]
    return [f"class {i}" for i in range(count)]


def class_list(cfg, names=None):
    """Ids (as in the annotation files) and names of the classes, from the first set that can tell.

    The model is trained on ``DATASETS.TRAIN``, whose order of classes is that of its outputs. ``DATASETS.TEST`` is
    asked where that is not here. Without any data, classes are called by their number, counted from 1.

    Args:
        names (list[str]): of the model's classes, where its checkpoint tells them.

    Returns:
        list[(int, str)]: one for each class of boxes; none where the model has pixels alone.
    """
    if "boxes" not in label_kinds(cfg):
        return []
    count = num_classes(cfg)
    names = names or list(cfg.DATASETS.CLASS_NAMES) or None
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        known = categories(name)
        if names is None and len(known) == count:
            return known
        places = positions([n for _, n in known], names or ())
        if names and {*range(count)} <= {*places}:
            return [(known[places.index(i)][0], n) for i, n in enumerate(names)]
    if names is not None:
        return [(i + 1, n) for i, n in enumerate(names)]
    logging.getLogger(__name__).warning("No set of DATASETS can be read to name the classes: numbers are used.")
    return [(i + 1, f"class {i + 1}") for i in range(count)]
