"""Every configuration key that mic_det adds to Detectron2's: name, default, check and documentation, in one place.

Sections of backbones are in ``backbone_keys.py``, those of the student's views in ``view_keys.py``, those of L_M and
L_T in ``loss_keys.py``, those of keypoints in ``keypoint_keys.py``, those of DAFormer and HRDA in
``segmentation_keys.py``, those of image classes in ``classification_keys.py``, those of target labels and another
labeller in ``target_keys.py``.

``docs/configuration.md`` is made from these files: ``python -m mic_det.config.docs docs/configuration.md``.
"""

from detectron2.config import CfgNode as CN

from .backbone_keys import BACKBONE_SECTIONS
from .classification_keys import CLASSIFICATION_SECTIONS
from .keypoint_keys import KEYPOINT_SECTION
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
from .target_keys import (
    LABELLED_TARGET_BATCH,
    LABELLED_TARGET_KEYS,
    LABELLER_SECTION,
    STATISTICS_KEY,
)
from .view_keys import BLOCK_SHARE, BLOCK_SIZE, MASK_PROB, VIEW_SECTIONS

BOUNDS = Rule(
    lambda v: len(v) == 2 and all(map(is_number, v)) and 0 <= v[0] <= v[1] <= 1,
    "two numbers (low, high), 0 <= low <= high <= 1",
)
MARGINS = Rule(
    lambda v: len(v) == 4 and all(is_number(m) and 0 <= m and (m < 1 or m == int(m)) for m in v),
    "four numbers (top, bottom, left, right), each a share in [0, 1) or a whole number of pixels",
)
SETS = Rule(
    lambda v: isinstance(v, dict), "a mapping of names to IMAGES, JSON, CLASS_FOLDERS, SEM_SEG and SEM_SEG_CLASSES"
)


# fmt: off
SECTIONS = (
    Section("Data sets", "A set has a registered name, or an entry in `DATASETS.CUSTOM`.", (
        Key("DATASETS.TARGET", (), each(TEXT, 0),
            "Unlabelled training sets of the target domain. Training uses only their images: annotations never reach "
            "the model. () = train on the source alone."),
        *LABELLED_TARGET_KEYS,
        Key("DATASETS.CUSTOM", CN(new_allowed=True), SETS,
            "Data sets that need no Python code. Each name has one entry: `my_fog: {JSON: fog/annotations.json, "
            "IMAGES: fog/images}`. IMAGES: the folder of the images, searched recursively. JSON: a COCO file, whose "
            "file names are relative to IMAGES; without JSON the set is unlabelled. SEM_SEG: a folder of label maps "
            "(8-bit PNG, 255 = ignored) for models with a segmentation head. A map has its image's name with .png, or "
            "the \"sem_seg_file_name\" of the JSON's image. SEM_SEG_CLASSES: the names of the labels 0, 1, ..., or "
            "\"cityscapes\" for its 19 train ids. CLASS_FOLDERS: True for an image classifier: the sub-folders of "
            "IMAGES are the classes. Relative paths are below $DETECTRON2_DATASETS (default ./datasets). \"~\" and "
            "\"$VAR\" are expanded."),
        Key("TEST.PSEUDO_LABELS.DATASET", "", TEXT,
            "A set of target images, for analysis alone. Each evaluation (TEST.EVAL_PERIOD, the end of training, "
            "--eval-only) measures the quality of its pseudo-labels. With labels: precision, recall, AP50, mIoU. "
            "Without labels: the share of images and classes that have pseudo-boxes, and the agreement of teacher and "
            "student. \"\" = none."),
        Key("TEST.PSEUDO_LABELS.MAX_IMAGES", 200, AT_LEAST_0,
            "At most this number of its images, evenly spread over the set; 0 = all.", "images"),
        Key("TEST.LABEL_FREE.ENABLED", False, YES_NO,
            "True: each evaluation (TEST.EVAL_PERIOD, the end of training, --eval-only) also measures, without labels, "
            "how good the model is on target images: `label_free/score` and its criteria in metrics.json. A training "
            "also measures the weights that it starts from (`label_free/start`). It keeps the weights with the highest "
            "score, which may be those of the start, as model_best_label_free.pth. In a training that has measured its "
            "start, weights that have lost a class of it have score 0 (`label_free/lost_classes`). At its end the "
            "training says which weights it kept. `mic-det select` measures the same afterwards."),
        Key("TEST.LABEL_FREE.PERIOD", 0, AT_LEAST_0,
            "A training also measures every this number of steps, without an evaluation on DATASETS.TEST; 0 = only at "
            "evaluations.", "optimizer steps"),
        Key("TEST.LABEL_FREE.DATASET", "", TEXT,
            "The set of target images for it, whose labels are not used; \"\" = the first of DATASETS.TARGET, else of "
            "DATASETS.TARGET_LABELLED."),
        Key("TEST.LABEL_FREE.MAX_IMAGES", 60, COUNT,
            "At most this number of its images, evenly spread over the set. The model predicts each of them three "
            "times: as it is, mirrored, and with hidden patches.", "images"),
        Key("TEST.LABEL_FREE.SOURCE_IMAGES", 60, AT_LEAST_0,
            "Labelled images of DATASETS.TRAIN for criteria that compare with the source; 0 = none. The current score "
            "has no such criterion.", "images"),
        Key("DATALOADER.WORKER_TIMEOUT", 300, AT_LEAST_0,
            "Longest time that the training waits for a batch from the DATALOADER.NUM_WORKERS processes. Then it stops "
            "with an error: shared memory may be too small, or a disk hangs. 0 = no limit.", "s"),
    )),
    Section("Training", "", (
        Key("SOLVER.IMS_PER_BATCH_TARGET", 1, COUNT,
            "Target images in a batch, over all devices. SOLVER.IMS_PER_BATCH counts source images.", "images"),
        LABELLED_TARGET_BATCH,
        Key("SOLVER.ACCUMULATE_STEPS", 1, COUNT,
            "Number of batches whose gradients are summed for one optimizer step and one teacher update.", "batches"),
        Key("SOLVER.CHECKPOINT_KEEP", 0, AT_LEAST_0,
            "Number of numbered checkpoints that are kept, the newest ones; 0 = all. A run writes them every "
            "SOLVER.CHECKPOINT_PERIOD steps and when a signal stops it. model_final.pth is always kept.", "files"),
        Key("SOLVER.NON_FINITE.SKIP_STEPS", 0, AT_LEAST_0,
            "A step is skipped, with a warning, where a loss or gradient is infinite or NaN in any process. A run may "
            "skip this number of steps; the next one stops it. OUTPUT_DIR/non_finite then has the batch, and a "
            "checkpoint has the state before the step.", "optimizer steps"),
        Key("SOLVER.NON_FINITE.MAX_OVERFLOWS", 30, AT_LEAST_0,
            "With float16, gradients may overflow: the step is skipped and the loss scale is lowered. The run stops "
            "after more overflows in a row than this number.", "optimizer steps"),
        Key("SOLVER.SEQUENTIAL_BACKWARD", False, YES_NO,
            "True: source, masked and mixed images go through the student one after the other, each with its own "
            "backward pass. This saves memory on the GPU. The gradient is the same as with one merged pass (False), "
            "which is faster. Views that MODEL.MIC.ALIGNMENT compares stay together. It needs MIC, and a backbone "
            "without trained BatchNorm."),
        Key("SOLVER.FUSED", True, YES_NO,
            "Use PyTorch's fused optimizer, which reads the weights once per step. It saves 2 % of a step of ResNet-50 "
            "on a CPU."),
        Key("SOLVER.AMP.DTYPE", "float16", one_of("float16", "bfloat16"),
            "Number format of SOLVER.AMP.ENABLED. float16 uses loss scaling. bfloat16 also works on CPUs."),
    )),
    Section("Logging", "Every run writes log.txt, metrics.json and TensorBoard's events to OUTPUT_DIR.", (
        Key("LOG.WRITERS", (), each(one_of("wandb", "mlflow"), 0),
            "Services that also receive TensorBoard's data and the config: wandb (Weights & Biases), mlflow. Each is "
            "an extra of the package: `pip install mic_det[wandb]`. A resumed run resumes the service's run, too. "
            "Without a network: WANDB_MODE=offline, MLFLOW_TRACKING_URI=sqlite:////path/mlflow.db."),
        Key("LOG.PROJECT", "mic_det", TEXT, "Name of the project in wandb, or of the experiment in MLflow."),
    )),
    *BACKBONE_SECTIONS,
    Section("FCOS",
        "For MODEL.META_ARCHITECTURE or MODEL.MIC.STUDENT FCOS: Detectron2's FCOS (Tian et al., ICCV 2019), which has "
        "no keys of its own. The defaults are those of its model zoo. Detections: TEST.DETECTIONS_PER_IMAGE.", (
        Key("MODEL.FCOS.NUM_CLASSES", 80, COUNT, "Classes of boxes, without background.",
            source="Detectron2's zoo"),
        Key("MODEL.FCOS.IN_FEATURES", ["p3", "p4", "p5", "p6", "p7"], each(TEXT),
            "Feature maps of the backbone, the finest first. Name all of them, because each has weights.",
            source="Detectron2's zoo"),
        Key("MODEL.FCOS.NUM_CONVS", 4, COUNT, "3 x 3 convolutions of each of the two branches of the head.", "layers",
            "Detectron2's zoo"),
        Key("MODEL.FCOS.NORM", "GN", NORMS, "Norm after each of these convolutions; '' = none.",
            source="Detectron2's zoo"),
        Key("MODEL.FCOS.PRIOR_PROB", 0.01, number(0, 1, open_left=True, open_right=True),
            "Probability of an object that an untrained head predicts.", "probability", "Detectron2's zoo"),
        Key("MODEL.FCOS.CENTER_SAMPLING_RADIUS", 1.5, POSITIVE,
            "A point belongs to an object where its distance from the centre of the box is smaller than this.",
            "strides",
            "Detectron2's zoo"),
        Key("MODEL.FCOS.FOCAL_LOSS_ALPHA", 0.25, SHARE, "Focal loss: weight of objects. Background has 1 minus this.",
            source="Detectron2's zoo"),
        Key("MODEL.FCOS.FOCAL_LOSS_GAMMA", 2.0, WEIGHT, "Focal loss: exponent.", source="Detectron2's zoo"),
        Key("MODEL.FCOS.SCORE_THRESH_TEST", 0.2, SHARE, "Least score of a prediction, sqrt(class x centerness).",
            "probability", "Detectron2's zoo"),
        Key("MODEL.FCOS.TOPK_CANDIDATES_TEST", 1000, COUNT,
            "At most this number of points of each map enter the non-maximum suppression.", "points",
            "Detectron2's zoo"),
        Key("MODEL.FCOS.NMS_THRESH_TEST", 0.6, SHARE, "Threshold of the non-maximum suppression.", "IoU",
            "Detectron2's zoo"),
    )),
    Section("MIC", "`MODEL.META_ARCHITECTURE: MIC` makes a student and its teacher.", (
        Key("MODEL.MIC.STUDENT", "GeneralizedRCNN", TEXT,
            "The architecture of student and teacher: a registered meta-architecture, such as GeneralizedRCNN, "
            "RetinaNet, FCOS, BoxPanopticFPN (boxes and segmentation), PanopticFPN (the same, with instance masks that "
            "Detectron2 merges with the pixels), SemanticSegmentor or ImageClassifier. L_M weights each region of a "
            "GeneralizedRCNN. With RetinaNet, FCOS and Cascade R-CNN it weights each image by the mean score of its "
            "pseudo-boxes."),
        Key("MODEL.MIC.EVALUATE", "teacher", one_of("teacher", "student", "both"),
            "The model that predicts, in evaluation and elsewhere. both: the teacher predicts; evaluation measures the "
            "teacher, then the student (metrics \"student/...\").", source="published: student"),
        Key("MODEL.MIC.WEIGHTS_FROM", "teacher", one_of("teacher", "student"),
            "For a checkpoint with both models (MIC's, or another framework's): the model from whose weights a new "
            "training starts, and which a plain detector loads. Resuming and evaluation load both models as they are."),
        Key("MODEL.MIC.BURN_IN_STEPS", 0, AT_LEAST_0,
            "Training on the source before L_M starts. Until then the teacher is a copy of the student (t = 0; see "
            "TEACHER.EMA_IN_BURN_IN). L_M is left out, but an alignment is trained.", "optimizer steps",
            "mean-teacher detectors; published: 0"),
    )),
    Section("Teacher", "An exponential moving average: phi <- a phi + (1 - a) theta, a = min(1 - 1/(t + 1), ALPHA).", (
        Key("MODEL.MIC.TEACHER.ALPHA", 0.9, SHARE_BELOW_1,
            "Largest weight a of the previous average.",
            source="Sec. 3.2; published: 0.9 for detection on SADA, 0.999 for segmentation; mean-teacher detectors: "
            "0.9996"),
        Key("MODEL.MIC.TEACHER.EMA_IN_BURN_IN", False, YES_NO,
            "True: the average begins with the training, so that the teacher is strong when L_M begins. With "
            "STRONG_AUG.ON_SOURCE, one run then has the strong start and MIC. False: it begins after burn-in.",
            source="published: no burn-in"),
        Key("MODEL.MIC.TEACHER.INPUT_SIZE", 0, AT_LEAST_0,
            "Short side of the target images that the teacher sees; 0 = as for the student.", "pixels",
            "published: 0"),
        STATISTICS_KEY,
    )),
    Section("Pseudo-boxes", "They are selected from the teacher's detections on the whole target image.", (
        Key("MODEL.MIC.PSEUDO_BOXES.SCORE_THRESHOLD", 0.8, SHARE, "Least score (delta).", "probability",
            "Sec. 3.3; published: 0.8"),
        Key("MODEL.MIC.PSEUDO_BOXES.SCORE_THRESHOLD_PER_CLASS", (), each(SHARE, 0),
            "One threshold per class, in the order of the classes; () = SCORE_THRESHOLD for all.", "probability"),
        Key("MODEL.MIC.PSEUDO_BOXES.ADAPT", "none", one_of("none", "class_shares"),
            "How the thresholds follow the teacher. There is one per class, which begins with SCORE_THRESHOLD "
            "(pseudo/threshold_CLASS in the log). class_shares: each class gets the share of pseudo-boxes that it has "
            "among the source's true boxes; their total is that of SCORE_THRESHOLD. none: the thresholds are "
            "constant.", source="our own; published: none"),
        Key("MODEL.MIC.PSEUDO_BOXES.ADAPT_BOUNDS", (0.3, 0.9), BOUNDS, "Least and largest of these thresholds.",
            "probability"),
        Key("MODEL.MIC.PSEUDO_BOXES.ADAPT_MOMENTUM", 0.99, SHARE_BELOW_1,
            "Weight of the previous value at each optimizer step, for the thresholds and for the scores behind them."),
        Key("MODEL.MIC.PSEUDO_BOXES.IGNORE_SCORE", 0.0, SHARE,
            "Detections with at least this score that are not pseudo-boxes are undecided. L_M does not train their "
            "places as background: an anchor or proposal is not sampled as background if it would not be background "
            "with the undecided box as a true box (by MODEL.RPN.IOU_THRESHOLDS and MODEL.ROI_HEADS.IOU_THRESHOLDS). "
            "Matches with pseudo-boxes do not change. 0 = no box is undecided. It needs hard targets "
            "(MODEL.MIC.CONSISTENCY.TARGETS) and an R-CNN student. The log has the number per image, "
            "pseudo/num_undecided.", "probability", "self-training detectors: about 0.3; published: 0"),
        Key("MODEL.MIC.PSEUDO_BOXES.NMS_THRESHOLD", 0.5, SHARE,
            "Class-wise non-maximum suppression of pseudo-boxes. The model's own NMS_THRESH_TEST (below "
            "MODEL.ROI_HEADS, RETINANET or FCOS) is applied before, so only a smaller value removes more.", "IoU"),
        Key("MODEL.MIC.PSEUDO_BOXES.MAX_PER_IMAGE", 100, COUNT,
            "At most this number per image, those with the highest scores.", "boxes"),
        Key("MODEL.MIC.PSEUDO_BOXES.MIN_SIZE", 0.0, WEIGHT,
            "Least width and height, in the student's view. Boxes without width or height are always removed.",
            "pixels"),
    )),
    LABELLER_SECTION,
    Section("Monitor",
        "It warns when pseudo-labels collapse, and gives advice. Each episode has one warning. 0 = no warning.", (
        Key("MODEL.MIC.MONITOR.PATIENCE", 200, AT_LEAST_0,
            "Warns after this number of steps in a row without a pseudo-box, or with too few sure pixels "
            "(PIXEL_QUALITY). BOXES_RATIO compares means over the same number of steps.", "optimizer steps"),
        Key("MODEL.MIC.MONITOR.ONE_CLASS_STEPS", 500, AT_LEAST_0,
            "Warns after this number of steps in a row with pseudo-boxes of one class alone.", "optimizer steps"),
        Key("MODEL.MIC.MONITOR.BOXES_RATIO", 5.0, WEIGHT,
            "Warns where pseudo-boxes per target image exceed boxes per source image times this factor.", "ratio"),
        Key("MODEL.MIC.MONITOR.PIXEL_QUALITY", 0.01, SHARE,
            "Warns where the teacher is sure of less than this share of the pixels.", "share of pixels"),
    )),
    *VIEW_SECTIONS,
    *LOSS_SECTIONS,
    KEYPOINT_SECTION,
    Section("Segmentation",
        "For students with a segmentation head (SemSegFPNHead). The loss is L_M with pixel labels (Eq. 6), weighted by "
        "the image's quality (Eq. 8). Burn-in and ramp-up are those of boxes. SEM_SEG.MASK is for a segmentation "
        "without boxes. A model with both uses MODEL.MIC.MASK.", (
        Key("MODEL.MIC.SEM_SEG.WEIGHT", 1.0, WEIGHT, "lambda_M of the segmentation; 0 leaves it out.",
            source="published: 1.0"),
        Key("MODEL.MIC.SEM_SEG.PIXEL_THRESHOLD", 0.968, SHARE,
            "tau: a pixel is sure where the teacher's top probability exceeds it.", "probability",
            "Eq. 8; published: 0.968"),
        Key("MODEL.MIC.SEM_SEG.MARGINS", (0, 0, 0, 0), MARGINS,
            "Margins of the original target image (top, bottom, left, right) whose pseudo-labels get weight 0, such as "
            "the own car and the rim of a rectified image. Values below 1 are shares of its height or width; values "
            "from 1 on are its pixels. Crop, resizing and flip apply to them as to the image.", "pixels or shares",
            "published for Cityscapes (1024 x 2048): 30, 240, 30, 30"),
        Key("MODEL.MIC.SEM_SEG.IGNORE_TOP", 0, AT_LEAST_0,
            "Old: use MARGINS. It counts rows of the student's view, which are wrong with random crops or several "
            "scales.", "pixels"),
        Key("MODEL.MIC.SEM_SEG.IGNORE_BOTTOM", 0, AT_LEAST_0, "Old: use MARGINS.", "pixels"),
        Key("MODEL.MIC.SEM_SEG.MASK.BLOCK_SIZE", 0, *BLOCK_SIZE,
            "published: 64 at 1024 x 2048 (crops of 1024), 32 at half of it"),
        Key("MODEL.MIC.SEM_SEG.MASK.BLOCK_SHARE", 0.0625, *BLOCK_SHARE, "published: 64 of 1024"),
        Key("MODEL.MIC.SEM_SEG.MASK.RATIO", 0.7, SHARE_BELOW_1,
            "Share of hidden patches.", "share of patches", "published: 0.7"),
        Key("MODEL.MIC.SEM_SEG.MASK.PROB", 1.0, *MASK_PROB, "published: 1.0"),
        Key("MODEL.MIC.SEM_SEG.MIX_WEIGHT", 0.0, WEIGHT,
            "Weight of ClassMix self-training, the segmentation's L_T; 0 leaves it out.",
            source="DACS; published: 1.0"),
        Key("MODEL.MIC.SEM_SEG.MATCH_SOURCE_SHARES", 0.0, SHARE,
            "s: the teacher's logits of each class get s log(p_S / p_T), where p_S is the share of the class among the "
            "labelled source pixels, and p_T is the teacher's mean probability of the class on target images. Both are "
            "running averages. So a class does not take all pixels of another. Use it where both domains show the "
            "same kind of scene. 0 = no correction.", source="our own; distribution alignment (ReMixMatch, 2020)"),
    )),
    *SEGMENTATION_SECTIONS,
    *CLASSIFICATION_SECTIONS,
)
# fmt: on
KEYS = {key.name: key for section in SECTIONS for key in section.keys}
