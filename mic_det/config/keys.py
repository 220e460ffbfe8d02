"""Every configuration key that mic_det adds to Detectron2's: name, default, check and documentation, in one place.

Sections of the student's views are in ``view_keys.py``, those of L_M and L_T in ``loss_keys.py``, those of DAFormer and
HRDA in ``segmentation_keys.py``.

``docs/configuration.md`` is made from these files: ``python -m mic_det.config.docs docs/configuration.md``.
"""

from detectron2.config import CfgNode as CN

from .loss_keys import LOSS_SECTIONS
from .rules import (
    AT_LEAST_0,
    COUNT,
    NORMS,
    POSITIVE,
    SHARE,
    SHARE_BELOW_1,
    TEXT,
    WEIGHT,
    YES_NO,
    Key,
    Rule,
    Section,
    each,
    is_number,
    number,
    one_of,
)
from .segmentation_keys import SEGMENTATION_SECTIONS
from .view_keys import BLOCK_SHARE, BLOCK_SIZE, MASK_PROB, VIEW_SECTIONS

BOUNDS = Rule(
    lambda v: len(v) == 2 and all(map(is_number, v)) and 0 <= v[0] <= v[1] <= 1,
    "two numbers (low, high), 0 <= low <= high <= 1",
)
MARGINS = Rule(
    lambda v: len(v) == 4 and all(is_number(m) and 0 <= m and (m < 1 or m == int(m)) for m in v),
    "four numbers (top, bottom, left, right), each a share in [0, 1) or a whole number of pixels",
)
SETS = Rule(lambda v: isinstance(v, dict), "a mapping of names to IMAGES, JSON, SEM_SEG and SEM_SEG_CLASSES")


# fmt: off
SECTIONS = (
    Section("Data sets", "A set has a registered name, or an entry in `DATASETS.CUSTOM`.", (
        Key("DATASETS.TARGET", (), each(TEXT, 0),
            "Unlabelled training sets of the target domain. Only their images are used: annotations never reach the "
            "model. () = train on the source alone."),
        Key("DATASETS.CUSTOM", CN(new_allowed=True), SETS,
            "Data sets that need no Python, one entry a name: `my_fog: {JSON: fog/annotations.json, IMAGES: "
            "fog/images}`. IMAGES: the folder of the images, searched recursively. JSON: a COCO file, whose file names "
            "are relative to IMAGES; without it the set is unlabelled. SEM_SEG: a folder of label maps (8-bit PNG, 255 "
            "= ignored) for models with a segmentation head; a map has its image's name with .png, or the "
            "\"sem_seg_file_name\" of the JSON's image. SEM_SEG_CLASSES: the names of the labels 0, 1, ..., or "
            "\"cityscapes\" for its 19 train ids. Relative paths are below $DETECTRON2_DATASETS (default ./datasets); "
            "\"~\" and \"$VAR\" are expanded."),
        Key("TEST.PSEUDO_LABELS.DATASET", "", TEXT,
            "A set of target images whose pseudo-labels are measured at each evaluation (TEST.EVAL_PERIOD, the end, "
            "--eval-only), for analysis alone. With labels: precision, recall, AP50, mIoU. Without: the share of "
            "images and classes that have pseudo-boxes, and how far teacher and student agree. \"\" = none."),
        Key("TEST.PSEUDO_LABELS.MAX_IMAGES", 200, AT_LEAST_0,
            "At most this number of them, evenly spread over the set; 0 = all.", "images"),
        Key("DATALOADER.WORKER_TIMEOUT", 300, AT_LEAST_0,
            "Where DATALOADER.NUM_WORKERS processes prepare the batches: a batch that takes longer stops the run with "
            "an error (shared memory that is too small, a disk that hangs). 0 = wait for ever.", "s"),
    )),
    Section("Training", "", (
        Key("SOLVER.IMS_PER_BATCH_TARGET", 1, COUNT,
            "Target images of a batch, over all devices. SOLVER.IMS_PER_BATCH counts source images.", "images"),
        Key("SOLVER.ACCUMULATE_STEPS", 1, COUNT,
            "Batches whose gradients are added up before one optimizer step and one teacher update.", "batches"),
        Key("SOLVER.CHECKPOINT_KEEP", 0, AT_LEAST_0,
            "How many numbered checkpoints stay, the newest ones; 0 = all. They are written every "
            "SOLVER.CHECKPOINT_PERIOD steps and where a signal stops the run. model_final.pth always stays.", "files"),
        Key("SOLVER.NON_FINITE.SKIP_STEPS", 0, AT_LEAST_0,
            "How many steps of a run may be skipped, with a warning, because a loss or gradient is infinite or NaN in "
            "any process; the next one stops the run. The batch is kept in OUTPUT_DIR/non_finite, and the state before "
            "the step in a checkpoint.", "optimizer steps"),
        Key("SOLVER.NON_FINITE.MAX_OVERFLOWS", 30, AT_LEAST_0,
            "With float16, gradients may overflow: the step is skipped and their scale is lowered. More overflows in a "
            "row than this stop the run.", "optimizer steps"),
        Key("SOLVER.SEQUENTIAL_BACKWARD", False, YES_NO,
            "True: source, masked and mixed images go through the student one after the other, each with its own "
            "backward pass, for GPUs with little memory. The gradient is that of one merged pass (False), which is "
            "faster. Views that MODEL.MIC.ALIGNMENT compares stay together. For MIC, and not for trained BatchNorm."),
        Key("SOLVER.FUSED", True, YES_NO,
            "PyTorch's fused optimizer, which goes through the weights once a step. It saves 2 % of a step of "
            "ResNet-50 on a CPU."),
        Key("SOLVER.AMP.DTYPE", "float16", one_of("float16", "bfloat16"),
            "Number format of SOLVER.AMP.ENABLED. float16 comes with loss scaling; bfloat16 works on CPUs too."),
    )),
    Section("Logging", "Beside log.txt, metrics.json and TensorBoard's events in OUTPUT_DIR.", (
        Key("LOG.WRITERS", (), each(one_of("wandb", "mlflow"), 0),
            "Services that get what TensorBoard gets, and the config: wandb (Weights & Biases), mlflow. Each is an "
            "extra of the package: `pip install mic_det[wandb]`. A resumed run resumes the service's run, too. Without "
            "a network: WANDB_MODE=offline, MLFLOW_TRACKING_URI=sqlite:////path/mlflow.db."),
        Key("LOG.PROJECT", "mic_det", TEXT, "The project of wandb, the experiment of MLflow."),
    )),
    Section("Backbone", "", (
        Key("MODEL.TORCHVISION.NAME", "mobilenet_v2", TEXT,
            "For MODEL.BACKBONE.NAME build_torchvision_fpn_backbone, an FPN on a classifier of torchvision, and "
            "build_torchvision_backbone, its stages res2 to res5 alone: resnet*, resnext*, wide_resnet*, mobilenet_v2, "
            "mobilenet_v3_*, efficientnet_*, convnext_*, ... Its ImageNet weights are loaded by MODEL.WEIGHTS: "
            "\"torchvision://NAME\" (downloads), or a file with torchvision's state dict."),
        Key("MODEL.TORCHVISION.NORM", "FrozenBN", one_of("FrozenBN", "BN"),
            "FrozenBN: BatchNorm layers become fixed affine maps. BN: they are trained, except in frozen stages. "
            "MODEL.BACKBONE.FREEZE_AT says how many of the finest stages, the stem included, are frozen."),
        Key("MODEL.BACKBONE.MIN_MATCHED_KEYS", 0.9, SHARE,
            "Loading stops where fewer of the backbone's tensors are found in MODEL.WEIGHTS than this share, or where "
            "another tensor has another shape than the file's; predictors of another number of classes are allowed. 0 "
            "= whatever fits is taken.", "share of tensors"),
    )),
    Section("FCOS",
        "For MODEL.META_ARCHITECTURE or MODEL.MIC.STUDENT FCOS: Detectron2's FCOS (Tian et al., ICCV 2019), which has "
        "no keys of its own. The defaults are those of its model zoo. Detections: TEST.DETECTIONS_PER_IMAGE.", (
        Key("MODEL.FCOS.NUM_CLASSES", 80, COUNT, "Classes of boxes, without background.",
            source="Detectron2's zoo"),
        Key("MODEL.FCOS.IN_FEATURES", ["p3", "p4", "p5", "p6", "p7"], each(TEXT),
            "Feature maps of the backbone, the finest first: all of them, as each has weights.",
            source="Detectron2's zoo"),
        Key("MODEL.FCOS.NUM_CONVS", 4, COUNT, "3 x 3 convolutions of each of the two branches of the head.", "layers",
            "Detectron2's zoo"),
        Key("MODEL.FCOS.NORM", "GN", NORMS, "The norm after each of them; '' = none.", source="Detectron2's zoo"),
        Key("MODEL.FCOS.PRIOR_PROB", 0.01, number(0, 1, open_left=True, open_right=True),
            "Probability of an object that a new head predicts everywhere.", "probability", "Detectron2's zoo"),
        Key("MODEL.FCOS.CENTER_SAMPLING_RADIUS", 1.5, POSITIVE,
            "A point is an object's where it is nearer to the middle of its box than this.", "strides",
            "Detectron2's zoo"),
        Key("MODEL.FCOS.FOCAL_LOSS_ALPHA", 0.25, SHARE, "Focal loss: weight of objects; background has the rest.",
            source="Detectron2's zoo"),
        Key("MODEL.FCOS.FOCAL_LOSS_GAMMA", 2.0, WEIGHT, "Focal loss: exponent.", source="Detectron2's zoo"),
        Key("MODEL.FCOS.SCORE_THRESH_TEST", 0.2, SHARE, "Least score of a prediction, sqrt(class x centerness).",
            "probability", "Detectron2's zoo"),
        Key("MODEL.FCOS.TOPK_CANDIDATES_TEST", 1000, COUNT,
            "Points of each map that may go on to the non-maximum suppression.", "points", "Detectron2's zoo"),
        Key("MODEL.FCOS.NMS_THRESH_TEST", 0.6, SHARE, "Its threshold.", "IoU", "Detectron2's zoo"),
    )),
    Section("MIC", "`MODEL.META_ARCHITECTURE: MIC` makes a student and its teacher.", (
        Key("MODEL.MIC.STUDENT", "GeneralizedRCNN", TEXT,
            "The student, and the teacher with it: a registered meta-architecture, such as GeneralizedRCNN, RetinaNet, "
            "FCOS, BoxPanopticFPN (boxes and segmentation), PanopticFPN (the same, with instance masks that Detectron2 "
            "merges with the pixels) or SemanticSegmentor. L_M weights each region of a GeneralizedRCNN. Of RetinaNet, "
            "FCOS and a Cascade R-CNN it weights each image, by the mean score of its pseudo-boxes."),
        Key("MODEL.MIC.EVALUATE", "teacher", one_of("teacher", "student", "both"),
            "The model that predicts, in evaluation and elsewhere. both: the teacher is evaluated, then the student "
            "(metrics \"student/...\"), and the teacher predicts.", source="published: student"),
        Key("MODEL.MIC.WEIGHTS_FROM", "teacher", one_of("teacher", "student"),
            "Of a checkpoint that has both models (MIC's, or one of another framework): whose weights a new training "
            "starts from, and a plain detector takes. Resuming and evaluation take each as it is."),
        Key("MODEL.MIC.BURN_IN_STEPS", 0, AT_LEAST_0,
            "Training on the source before L_M starts. Until then the teacher is a copy of the student (t = 0; see "
            "TEACHER.EMA_IN_BURN_IN), and L_M is left out; an alignment is not.", "optimizer steps",
            "mean-teacher detectors; published: 0"),
    )),
    Section("Teacher", "An exponential moving average: phi <- a phi + (1 - a) theta, a = min(1 - 1/(t + 1), ALPHA).", (
        Key("MODEL.MIC.TEACHER.ALPHA", 0.9, SHARE_BELOW_1,
            "The average's weight of its own past.",
            source="Sec. 3.2; published: 0.9 for detection on SADA, 0.999 for segmentation; mean-teacher detectors: "
            "0.9996"),
        Key("MODEL.MIC.TEACHER.EMA_IN_BURN_IN", False, YES_NO,
            "True: the average begins with the training, so that it is a strong start when L_M begins (with "
            "STRONG_AUG.ON_SOURCE: strong start and MIC in one run). False: it begins when burn-in ends.",
            source="published: no burn-in"),
        Key("MODEL.MIC.TEACHER.INPUT_SIZE", 0, AT_LEAST_0,
            "Short side at which the teacher sees the target image; 0 = as the student sees it.", "pixels",
            "published: 0"),
    )),
    Section("Pseudo-boxes", "From the teacher's detections on the whole target image.", (
        Key("MODEL.MIC.PSEUDO_BOXES.SCORE_THRESHOLD", 0.8, SHARE, "Least score (delta).", "probability",
            "Sec. 3.3; published: 0.8"),
        Key("MODEL.MIC.PSEUDO_BOXES.SCORE_THRESHOLD_PER_CLASS", (), each(SHARE, 0),
            "One threshold a class, in the order of the classes; () = SCORE_THRESHOLD for all.", "probability"),
        Key("MODEL.MIC.PSEUDO_BOXES.ADAPT", "none", one_of("none", "class_shares", "running_mean"),
            "Thresholds that begin with SCORE_THRESHOLD and follow the teacher, one a class (pseudo/threshold_CLASS in "
            "the log). class_shares: each class gets the share of pseudo-boxes that it has among the source's true "
            "boxes; their number is that of SCORE_THRESHOLD. running_mean: the mean score of the class's detections "
            "over the lower bound. none: they stay.",
            source="self-training detectors; published: none"),
        Key("MODEL.MIC.PSEUDO_BOXES.ADAPT_BOUNDS", (0.3, 0.9), BOUNDS, "Least and largest of these thresholds.",
            "probability"),
        Key("MODEL.MIC.PSEUDO_BOXES.ADAPT_MOMENTUM", 0.99, SHARE_BELOW_1,
            "Weight of the past at each optimizer step: of the thresholds, and of the scores that they follow."),
        Key("MODEL.MIC.PSEUDO_BOXES.IGNORE_SCORE", 0.0, SHARE,
            "Detections with at least this score that are no pseudo-boxes are undecided: their places are not taught "
            "as background. Anchors and proposals that would not be background if the undecided box were a true one "
            "(by MODEL.RPN.IOU_THRESHOLDS and MODEL.ROI_HEADS.IOU_THRESHOLDS) are not sampled as background. What is "
            "matched to a pseudo-box is not changed. 0 = none: all that is no pseudo-box is background. For hard "
            "targets (MODEL.MIC.CONSISTENCY.TARGETS) of R-CNN students. The log has their number an image, "
            "pseudo/num_undecided.", "probability", "self-training detectors: about 0.3; published: 0"),
        Key("MODEL.MIC.PSEUDO_BOXES.NMS_THRESHOLD", 0.5, SHARE,
            "Class-wise non-maximum suppression of pseudo-boxes. It comes after the model's own "
            "NMS_THRESH_TEST (below MODEL.ROI_HEADS, RETINANET or FCOS), so only a smaller value removes more.", "IoU"),
        Key("MODEL.MIC.PSEUDO_BOXES.MAX_PER_IMAGE", 100, COUNT,
            "At most this number an image, those with the highest scores.", "boxes"),
        Key("MODEL.MIC.PSEUDO_BOXES.MIN_SIZE", 0.0, WEIGHT,
            "Least width and height, in the student's view. Boxes without width or height are never taken.", "pixels"),
    )),
    Section("Monitor", "Warnings of pseudo-labels that collapse, with advice, once an episode. 0 switches each off.", (
        Key("MODEL.MIC.MONITOR.PATIENCE", 200, AT_LEAST_0,
            "Warns after this number of steps in a row without a pseudo-box, or in which the teacher is sure of too "
            "few pixels (PIXEL_QUALITY). BOXES_RATIO compares means over as many steps.", "optimizer steps"),
        Key("MODEL.MIC.MONITOR.ONE_CLASS_STEPS", 500, AT_LEAST_0,
            "Warns after this number of steps in a row with pseudo-boxes of one class alone.", "optimizer steps"),
        Key("MODEL.MIC.MONITOR.BOXES_RATIO", 5.0, WEIGHT,
            "Warns where a target image has more pseudo-boxes than this times the boxes of a source image.", "ratio"),
        Key("MODEL.MIC.MONITOR.PIXEL_QUALITY", 0.01, SHARE,
            "Warns where the teacher is sure of a smaller share of the pixels.", "share of pixels"),
    )),
    *VIEW_SECTIONS,
    *LOSS_SECTIONS,
    Section("Segmentation",
        "For students with a segmentation head (SemSegFPNHead). The loss is L_M's with pixel labels (Eq. 6), weighted "
        "by the image's quality (Eq. 8). Burn-in and ramp are those of boxes. SEM_SEG.MASK is for a "
        "segmentation that trains alone; beside boxes, MODEL.MIC.MASK holds.", (
        Key("MODEL.MIC.SEM_SEG.WEIGHT", 1.0, WEIGHT, "lambda_M of the segmentation; 0 leaves it out.",
            source="published: 1.0"),
        Key("MODEL.MIC.SEM_SEG.PIXEL_THRESHOLD", 0.968, SHARE,
            "tau: a pixel is sure where the teacher's top probability exceeds it.", "probability",
            "Eq. 8; published: 0.968"),
        Key("MODEL.MIC.SEM_SEG.MARGINS", (0, 0, 0, 0), MARGINS,
            "Margins of the original target image (top, bottom, left, right) whose pseudo-labels get weight 0, such as "
            "the own car and the rim of a rectified image: below 1 as shares of its height and width, from 1 on in its "
            "pixels. They go through the same crop, resizing and flip as the image.", "pixels or shares",
            "published for Cityscapes (1024 x 2048): 30, 240, 30, 30"),
        Key("MODEL.MIC.SEM_SEG.IGNORE_TOP", 0, AT_LEAST_0,
            "Old; use MARGINS. Rows of the student's view, which random crops and several scales make wrong.",
            "pixels"),
        Key("MODEL.MIC.SEM_SEG.IGNORE_BOTTOM", 0, AT_LEAST_0, "Old; use MARGINS.", "pixels"),
        Key("MODEL.MIC.SEM_SEG.MASK.BLOCK_SIZE", 0, *BLOCK_SIZE,
            "published: 64 at 1024 x 2048 (crops of 1024), 32 at half of it"),
        Key("MODEL.MIC.SEM_SEG.MASK.BLOCK_SHARE", 0.0625, *BLOCK_SHARE, "published: 64 of 1024"),
        Key("MODEL.MIC.SEM_SEG.MASK.RATIO", 0.7, SHARE_BELOW_1,
            "Share of hidden patches.", "share of patches", "published: 0.7"),
        Key("MODEL.MIC.SEM_SEG.MASK.PROB", 1.0, *MASK_PROB, "published: 1.0"),
        Key("MODEL.MIC.SEM_SEG.MIX_WEIGHT", 0.0, WEIGHT,
            "Weight of ClassMix self-training, the segmentation's L_T; 0 leaves it out.",
            source="DACS; published: 1.0"),
    )),
    *SEGMENTATION_SECTIONS,
)
# fmt: on
KEYS = {key.name: key for section in SECTIONS for key in section.keys}
