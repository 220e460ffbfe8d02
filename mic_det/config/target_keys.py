"""Keys of what a user has beside unlabelled target images: a few labels of them, or the boxes of another detector."""

from detectron2.config import CfgNode as CN

from .rules import (
    AT_LEAST_0,
    COUNT,
    SHARE,
    SHARE_BELOW_1,
    TEXT,
    Key,
    Rule,
    Section,
    each,
    number,
    one_of,
)


def _is_class_map(value):
    if not isinstance(value, dict) or not all(isinstance(v, (list, tuple)) and v for v in value.values()):
        return False
    return all(isinstance(x, (int, str)) and not isinstance(x, bool) for v in value.values() for x in v)


CLASS_MAP = Rule(_is_class_map, "a mapping of the model's class names to lists of ids or names of the labeller")

# fmt: off
LABELLED_TARGET_KEYS = (
    Key("DATASETS.CLASS_NAMES", (), each(TEXT, 0),
        "Names of the model's classes of boxes or images, in the order of its outputs, for a training without "
        "DATASETS.TRAIN. () = the names in the checkpoint MODEL.WEIGHTS, which our trainer writes. With "
        "DATASETS.TRAIN, the names are those of its first set."),
    Key("DATASETS.TARGET_LABELLED", (), each(TEXT, 0),
        "Labelled training sets of the target domain. Their images join the supervised loss L_S, with the sizes of "
        "target images. Only images that have labels are used. A set may also be in DATASETS.TARGET: its other images "
        "then are the unlabelled ones. No image is in both parts. () = no target image is labelled."),
    Key("DATASETS.TARGET_LABELLED_IMAGES", 0, AT_LEAST_0,
        "At most this number of these images are used as labelled, evenly spread over the sets; 0 = all. The others "
        "stay unlabelled. It measures how much a number of labels is worth.", "images"),
)
LABELLED_TARGET_BATCH = Key("SOLVER.IMS_PER_BATCH_TARGET_LABELLED", 1, COUNT,
    "Labelled target images in a batch, over all devices, where DATASETS.TARGET_LABELLED names a set. It is the fixed "
    "share of these images, however few they are.", "images")
STATISTICS_KEY = Key("MODEL.MIC.TEACHER.STATISTICS_IMAGES", 0, AT_LEAST_0,
    "Number of unlabelled target images from which a new training first re-estimates the statistics of BatchNorm "
    "layers, for student and teacher; 0 = keep those of MODEL.WEIGHTS. It has no effect on FrozenBN and GN.", "images",
    "source-free adaptation; published: 0")
LABELLER_SECTION = Section("Another labeller",
    "Boxes that another detector has found in the target images, such as a larger one or a foundation model. They join "
    "the teacher's detections before pseudo-boxes are selected.", (
    Key("MODEL.MIC.LABELLER.JSON", "", TEXT,
        "A file of its boxes, below $DETECTRON2_DATASETS like DATASETS.CUSTOM's. It is a COCO results file: a list of "
        "image_id, category_id, bbox, score. Or a whole COCO file whose annotations have a score, such as "
        "predictions.json of mic-det predict: then images are found by file_name. \"\" = no labeller."),
    Key("MODEL.MIC.LABELLER.CLASSES", CN(new_allowed=True), CLASS_MAP,
        "The labeller's classes of each class of the model: `{car: [3, 8], person: [1]}`, ids or, for a whole COCO "
        "file, names. Boxes of other classes are left out and counted in the log. {} = a whole COCO file has the names "
        "of the model's classes; a list has the ids of the annotation file of DATASETS.TARGET or DATASETS.TRAIN. "
        "Then an unknown class is an error."),
    Key("MODEL.MIC.LABELLER.FUSE", "wbf", one_of("wbf", "replace"),
        "wbf: weighted box fusion. A box of the labeller and a box of the teacher of the same class that overlap "
        "(IOU_THRESHOLD) become one, the mean of both by their scores. replace: the labeller's boxes are used instead "
        "of the teacher's."),
    Key("MODEL.MIC.LABELLER.TRUST", 0.5, number(0, 1, open_left=True),
        "Trust t in the labeller's scores s_L against the teacher's s_T. The score of a fused box is max(s_T, t s_L + "
        "(1 - t) s_T), where s_T is 0 without a box of the teacher. So a silent labeller lowers no score. With 0.5, a "
        "box of the labeller alone is at most undecided (PSEUDO_BOXES.IGNORE_SCORE), and it confirms boxes that the "
        "teacher is not sure of. With 1, it can be a pseudo-box alone. In the mean of two boxes, the labeller's score "
        "counts t times.",
        source="0.5 and 1 are the scores \"avg\" and \"max\" of weighted box fusion (Solovyev et al., 2021)"),
    Key("MODEL.MIC.LABELLER.IOU_THRESHOLD", 0.55, number(0, 1, open_left=True),
        "Least overlap of two boxes that are fused.", "IoU", "Solovyev et al., 2021"),
    Key("MODEL.MIC.LABELLER.SCORE_THRESHOLD", 0.0, SHARE,
        "The labeller's boxes with a smaller score are left out.", "probability"),
    Key("MODEL.MIC.LABELLER.SURE_SCORE", 0.0, SHARE_BELOW_1,
        "Score from which the labeller can be believed. Its scores s become s^(log SCORE_THRESHOLD / log SURE_SCORE), "
        "with PSEUDO_BOXES.SCORE_THRESHOLD, so that this score means the same as the teacher's threshold. Detectors "
        "with text prompts are often right at 0.4. 0 = the scores are used as they are.", "probability"),
    Key("MODEL.MIC.LABELLER.UNTIL_STEP", 0, AT_LEAST_0,
        "The labeller is used in this number of optimizer steps from the start; 0 = in all.", "optimizer steps"),
))
# fmt: on
