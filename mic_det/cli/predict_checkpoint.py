"""A config and a checkpoint as the model of ``mic-det predict``."""

from ..config import student_architecture
from ..config.keypoint_rules import predicts_keypoints
from ..config.label_kinds import label_kinds
from ..data.pixels import read_rgb
from ..engine.setup import config_of
from ..inference.detections import Detections
from ..inference.predictor import Predictor, class_list, label_map_classes
from ..visualization.panels import draw_boxes, draw_masks
from ..visualization.skeletons import Skeleton


class CheckpointModel:
    """The model that a config describes.

    Attributes:
        files (list[path]): what it reads.
        kinds (sequence of str), name (str), label_count (int): what it predicts, known before it is loaded.
        classes (list[(int, str)]), label_names (list[str]): known after.
    """

    draw_boxes, draw_masks = staticmethod(draw_boxes), staticmethod(draw_masks)
    read = staticmethod(read_rgb)

    def __init__(self, args):
        if args.weights:
            args.opts = [*args.opts, "MODEL.WEIGHTS", args.weights]
        self.args, self.cfg = args, config_of(args)
        self.files = [args.config_file, self.cfg.MODEL.WEIGHTS]
        self.kinds, self.name = label_kinds(self.cfg), student_architecture(self.cfg)
        self.label_count = self.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        self.predictor, self.classes, self.label_names, self.skeleton = None, [], [], None

    def load(self):
        """Read the weights; see :class:`Predictor` for the errors."""
        self.predictor = Predictor(self.cfg, self.args.confidence_threshold, self.args.trust_checkpoint)
        if "boxes" in self.kinds:
            self.classes = class_list(self.cfg, self.predictor.named_classes)
        if predicts_keypoints(self.cfg):
            least = self.cfg.MODEL.MIC.PSEUDO_KEYPOINTS.SCORE_THRESHOLD
            self.skeleton = Skeleton.of_set(next(iter(self.cfg.DATASETS.TRAIN), ""), least)
        if "pixels" in self.kinds:
            self.label_names = label_map_classes(self.cfg)

    def __call__(self, rgb):
        """``"instances"``: :class:`Detections` of N boxes; ``"label_map"``: (H, W) int64; ``"masks"``: (N, H, W) bool.

        ``"keypoints"``: (N, K, 3), rows (x, y, score), also of boxes whose class has no keypoints.
        """
        found = self.predictor(rgb)
        as_arrays = {"instances": Detections.of_instances, "label_map": lambda x: x.numpy()}
        arrays = {kind: as_arrays[kind](x) for kind, x in found.items()}
        instances = found.get("instances")
        if instances is not None and instances.has("pred_masks"):
            arrays["masks"] = instances.pred_masks.numpy()
        if self.skeleton and instances.has("pred_keypoints"):
            arrays["keypoints"] = instances.pred_keypoints.numpy()
        return arrays
