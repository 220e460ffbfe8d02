"""Every configuration key that mic_det adds to Detectron2's, with meaning, unit, default and source.

``method`` in the comments is the MIC paper (Hoyer et al., "MIC: Masked Image Consistency for
Context-Enhanced Domain Adaptation", CVPR 2023); section and equation numbers are the paper's.
"""

from detectron2.config import CfgNode as CN
from detectron2.modeling import META_ARCH_REGISTRY

from .errors import MICError

QUALITY_MODES = ("teacher", "student", "published", "none")
MASKED_DOMAINS = ("target", "source", "both")
EMPTY_IMAGE_RULES = ("skip", "background")
WEIGHT_SOURCES = ("teacher", "student")
EVALUATED_MODELS = ("teacher", "student", "both")
AMP_DTYPES = ("float16", "bfloat16")
ALIGNED_VIEWS = ("whole", "masked", "both")
ALIGNED_REGIONS = ("same", "published")
REVERSAL_SCHEDULES = ("constant", "dann")
BACKBONE_NORMS = ("FrozenBN", "BN")


def add_mic_config(cfg: CN) -> None:
    """Add mic_det's keys to a Detectron2 config, in place.

    Args:
        cfg (CfgNode): usually the result of ``detectron2.config.get_cfg()``.
    """
    _add_dataset_keys(cfg)
    _add_backbone_keys(cfg)
    _add_fcos_keys(cfg)
    _add_method_keys(cfg)
    _add_alignment_keys(cfg.MODEL.MIC)
    _add_sem_seg_keys(cfg.MODEL.MIC)


def _add_dataset_keys(cfg):
    # Unlabelled target-domain training sets, by registered or declared name. Only their images are
    # used: annotations, where a set has them, never reach the model. () = train on the source alone.
    cfg.DATASETS.TARGET = ()
    # Data sets declared here need no Python. One entry a name:
    #   DECLARED:
    #     my_fog: {JSON: "fog/annotations.json", IMAGES: "fog/images"}
    # JSON: COCO-format annotation file ("" = an unlabelled folder, searched recursively).
    # SEM_SEG: folder of label maps (8-bit PNG, 255 = ignored), for models with a segmentation head. A
    # map has its image's name with .png, or the one that the JSON's image tells as "sem_seg_file_name".
    # SEM_SEG_CLASSES: names of the labels 0, 1, ...; "cityscapes" = its 19 train ids.
    # IMAGES: folder to which the JSON's file names are relative.
    # Relative paths are below $DETECTRON2_DATASETS (default ./datasets); "~" and "$VAR" are expanded.
    cfg.DATASETS.CUSTOM = CN(new_allowed=True)
    # A set of target images whose pseudo-labels are measured at each evaluation (TEST.EVAL_PERIOD, the end,
    # --eval-only), for analysis alone; "" = none. With labels: precision, recall, AP50, mIoU. Without: the
    # share of images and classes that have pseudo-boxes, and the agreement of teacher and student.
    # MAX_IMAGES: so many, evenly spread over the set; 0 = all.
    cfg.TEST.PSEUDO_LABELS = CN(dict(DATASET="", MAX_IMAGES=200))
    # Target images per optimizer step, over all devices. SOLVER.IMS_PER_BATCH counts source images.
    cfg.SOLVER.IMS_PER_BATCH_TARGET = 1
    # Micro-batches whose gradients are added up before one optimizer step (and one teacher update).
    # Each micro-batch has SOLVER.IMS_PER_BATCH source and IMS_PER_BATCH_TARGET target images.
    cfg.SOLVER.ACCUMULATE_STEPS = 1
    # Seconds that a batch may take where DATALOADER.NUM_WORKERS processes prepare it; then the run stops with an error
    # instead of waiting for ever (shared memory that is too small, a disk that hangs). 0 = wait for ever.
    cfg.DATALOADER.WORKER_TIMEOUT = 300
    # Numbered checkpoints (every SOLVER.CHECKPOINT_PERIOD steps, and where a signal stopped the run) that stay:
    # so many of the newest; 0 = all. model_final.pth always stays.
    cfg.SOLVER.CHECKPOINT_KEEP = 0
    # Steps with a loss or gradient that is infinite or NaN, in any process. SKIP_STEPS: so many of a run are
    # left out, with a warning; the next one stops it. The batch is kept in OUTPUT_DIR/non_finite, and the state
    # before the step in a checkpoint. MAX_OVERFLOWS: gradients scaled for float16 may overflow, which
    # lowers the scale and leaves the step out; more of them in a row than this stop the run.
    cfg.SOLVER.NON_FINITE = CN(dict(SKIP_STEPS=0, MAX_OVERFLOWS=30))
    # True: source, masked and mixed images go through the student one after the other, each with its backward
    # pass at once, for GPUs with little memory. The gradient is that of one merged pass (False), which is faster.
    # Views that MODEL.MIC.ALIGNMENT compares stay together. For MIC, and not for trained BatchNorm.
    cfg.SOLVER.SEQUENTIAL_BACKWARD = False
    # PyTorch's fused SGD, which goes through the weights once a step: 2 % of a step of ResNet-50 on a CPU.
    cfg.SOLVER.FUSED = True
    # Number format of SOLVER.AMP.ENABLED: "float16" (with loss scaling) or "bfloat16" (also on CPUs).
    cfg.SOLVER.AMP.DTYPE = "float16"


def _add_backbone_keys(cfg):
    # For MODEL.BACKBONE.NAME "build_torchvision_fpn_backbone": an FPN on a torchvision classifier.
    tv = cfg.MODEL.TORCHVISION = CN()
    # A torchvision classification model: resnet*, resnext*, wide_resnet*, mobilenet_v2,
    # mobilenet_v3_*, efficientnet_*, convnext_*, ... Its ImageNet weights are loaded through
    # MODEL.WEIGHTS: "torchvision://NAME" (downloads), or a local file with torchvision's state dict.
    tv.NAME = "mobilenet_v2"
    # "FrozenBN": BatchNorm layers become fixed affine maps; "BN": they are trained, except in frozen stages.
    tv.NORM = "FrozenBN"
    # How many of the finest stages (stem included) keep their initial weights and statistics, counted as in
    # MODEL.BACKBONE.FREEZE_AT, which is the key that sets it.

    # Loading stops if fewer of the backbone's keys than this share are found in MODEL.WEIGHTS, or if other tensors
    # have another shape than the file's, except predictors of another number of classes. 0 = whatever fits is taken.
    cfg.MODEL.BACKBONE.MIN_MATCHED_KEYS = 0.9


def _add_fcos_keys(cfg):
    # For MODEL.META_ARCHITECTURE or MODEL.MIC.STUDENT "FCOS": Detectron2's FCOS (Tian et al., ICCV 2019), which has no
    # keys of its own. The defaults are those of its model zoo. Detections an image: TEST.DETECTIONS_PER_IMAGE.
    fcos = cfg.MODEL.FCOS = CN()
    # Classes of boxes, without background.
    fcos.NUM_CLASSES = 80
    # Feature maps of the backbone, the finest first: all of them, as each has weights.
    fcos.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # 3 x 3 convolutions of each of the head's two branches, without the last one, and the norm after each ("" = none).
    fcos.NUM_CONVS = 4
    fcos.NORM = "GN"
    # Probability of an object that a new head predicts everywhere, in (0, 1).
    fcos.PRIOR_PROB = 0.01
    # A point is an object's where it is nearer to the middle of its box than this many strides.
    fcos.CENTER_SAMPLING_RADIUS = 1.5
    # Focal loss: weight of objects (in [0, 1]; background has the rest), and exponent.
    fcos.FOCAL_LOSS_ALPHA = 0.25
    fcos.FOCAL_LOSS_GAMMA = 2.0
    # Prediction: least score sqrt(class x centerness), in [0, 1]; the number of points of each map that may go on to
    # the non-maximum suppression; and its IoU, in [0, 1].
    fcos.SCORE_THRESH_TEST = 0.2
    fcos.TOPK_CANDIDATES_TEST = 1000
    fcos.NMS_THRESH_TEST = 0.6


def _add_method_keys(cfg):
    mic = cfg.MODEL.MIC = CN()
    # The student: a registered meta-architecture, such as GeneralizedRCNN, RetinaNet, FCOS, BoxPanopticFPN (boxes and
    # segmentation), PanopticFPN (the same, with instance masks that Detectron2 merges with the pixels) or
    # SemanticSegmentor. The teacher is a second one. L_M weights each region of a GeneralizedRCNN; of RetinaNet, FCOS
    # and of a Cascade R-CNN (MODEL.ROI_HEADS.NAME) it weights each image, by the mean score of its pseudo-boxes.
    mic.STUDENT = "GeneralizedRCNN"
    # Which of the two answers in evaluation and prediction: "teacher" or "student"; "both" evaluates
    # the teacher and then the student (metrics "student/..."), and predicts by the teacher. Published: student.
    mic.EVALUATE = "teacher"
    # Of a checkpoint that has both (MIC's, or one of another framework's): whose weights a new training starts
    # from, and a plain detector takes, "teacher" or "student". Resuming and evaluation take each as it is.
    mic.WEIGHTS_FROM = "teacher"
    # Optimizer steps of source-only training before the teacher starts. Until then the teacher is a
    # copy of the student (t = 0) and L_M is left out; an alignment, where there is one, is not.
    # Mean-teacher detectors burn in.
    mic.BURN_IN_STEPS = 0

    # EMA teacher, Sec. 3.2: phi <- a phi + (1 - a) theta, a = min(1 - 1/(t + 1), ALPHA).
    mic.TEACHER = CN()
    # In [0, 1). Published: 0.9 for detection on SADA, 0.999 for segmentation; mean-teacher
    # detectors use 0.9996.
    mic.TEACHER.ALPHA = 0.9
    # Short side in pixels at which the teacher sees the target image; 0 = as the student sees it.
    mic.TEACHER.INPUT_SIZE = 0

    # Pseudo-boxes from the teacher's detections on the whole target image, Sec. 3.3.
    mic.PSEUDO_BOXES = CN()
    # Least score (delta), in [0, 1]. Published: 0.8.
    mic.PSEUDO_BOXES.SCORE_THRESHOLD = 0.8
    # One threshold a class, in the order of the classes; () = SCORE_THRESHOLD for all.
    mic.PSEUDO_BOXES.SCORE_THRESHOLD_PER_CLASS = ()
    # IoU of the class-wise non-maximum suppression of pseudo-boxes, in [0, 1]. It comes after the
    # model's own NMS_THRESH_TEST (below MODEL.ROI_HEADS, RETINANET or FCOS), so only a smaller value removes more.
    mic.PSEUDO_BOXES.NMS_THRESHOLD = 0.5
    # At most so many an image, those with the highest scores.
    mic.PSEUDO_BOXES.MAX_PER_IMAGE = 100
    # Least width and height in pixels of the student's view. Boxes without width or height are never taken.
    mic.PSEUDO_BOXES.MIN_SIZE = 0.0

    # Warnings of pseudo-labels that collapse, with advice in the log, once an episode.
    # STEPS: optimizer steps in a row without a pseudo-box, or in which the teacher is sure of less than
    # PIXEL_QUALITY (a share, in [0, 1]) of the pixels; and over which the mean number of pseudo-boxes a target
    # image is taken, which is too many above BOXES_RATIO times the boxes of a source image.
    # ONE_CLASS_STEPS: steps in a row with pseudo-boxes of one class alone. 0 switches each off.
    mic.WATCH = CN(dict(STEPS=200, ONE_CLASS_STEPS=500, BOXES_RATIO=5.0, PIXEL_QUALITY=0.01))

    # Random patch mask of the normalised image, Sec. 3.1, Eq. 4-5.
    mic.MASK = CN()
    # Patch size b in pixels of the student's view. Published: 32 for detection (short side 800); for segmentation 64
    # at full resolution (1024 x 2048) and 32 at half.
    mic.MASK.BLOCK_SIZE = 32
    # Share r of patches that are hidden, in [0, 1); 0 = strong view without a mask.
    # Published: 0.5 for detection, 0.7 for segmentation.
    mic.MASK.RATIO = 0.5
    # Whose masked views are trained on: "target" (default), "source" (with its true boxes), "both".
    mic.MASK.DOMAINS = "target"

    # Colour changes of the student's view before it is masked; drawn per image and step.
    mic.STRONG_AUG = CN()
    # Whether source images get them too (mean-teacher detectors; MIC leaves source images as they are).
    mic.STRONG_AUG.ON_SOURCE = False
    # Brightness, contrast, saturation and hue are changed by up to this much. Published: 0.2.
    mic.STRONG_AUG.JITTER_STRENGTH = 0.2
    mic.STRONG_AUG.JITTER_PROB = 0.8
    # Gaussian blur; sigma in pixels is drawn uniformly from this range.
    mic.STRONG_AUG.BLUR_SIGMA = (0.15, 1.15)
    mic.STRONG_AUG.BLUR_PROB = 0.5

    # Masked consistency loss L_M, Sec. 3.2-3.3, Eq. 6-7.
    mic.CONSISTENCY = CN()
    # lambda_M. Published: 1.0, in the released detection config too (0.5 is only its code's default).
    # 0 leaves L_M and the teacher's pass over target images out.
    mic.CONSISTENCY.WEIGHT = 1.0
    # Optimizer steps after burn-in over which lambda_M grows linearly from 0; 0 = at once.
    mic.CONSISTENCY.RAMP_UP_STEPS = 0
    # Weight q of each region. Where an image has a single q (MODEL.MIC.STUDENT), "teacher" is the mean score of its
    # pseudo-boxes; "student" and "published" are not defined there, and are refused.
    # "teacher": the teacher's probability for the label that the region is given (score of the pseudo-box, background).
    # "student": the student's probability for what it predicts itself, without gradient: max(p, 1 - p) of an anchor,
    # the top probability of a RoI. The weight of its own errors is high.
    # "published": what the authors' detection code does. RoIs as "student"; an anchor has the student's foreground
    # probability p, whatever its label, and the gradient goes through it.
    # "none": 1.
    # Regions of masked source images, whose boxes are true, have q = 1 in every mode.
    mic.CONSISTENCY.QUALITY = "teacher"
    # Images without a pseudo-box: "skip" them, or take them as all "background".
    mic.CONSISTENCY.EMPTY_IMAGES = "skip"
    # Weights of the terms inside L_M: RPN objectness, RoI classification, and box regression of
    # both on pseudo-boxes (off by default: pseudo-boxes are not that exact). All four are weighted by q.
    # The losses of RetinaNet and FCOS have the weights of RoIs; FCOS's centerness that of box regression.
    # 0 leaves a term out.
    mic.CONSISTENCY.RPN_CLS_WEIGHT = 1.0
    mic.CONSISTENCY.ROI_CLS_WEIGHT = 1.0
    mic.CONSISTENCY.RPN_BOX_REG_WEIGHT = 0.0
    mic.CONSISTENCY.ROI_BOX_REG_WEIGHT = 0.0


def _add_alignment_keys(mic):
    # Adversarial alignment L_T of SADA (Chen et al., IJCV 2021), the detector that MIC's published
    # detection result adapts. Domain classifiers learn to tell source from target, and through a
    # gradient reversal the student learns to leave them nothing to tell. Off unless a part is enabled.
    a = mic.ALIGNMENT = CN()
    # Target views that the classifiers see: "whole" images. "masked" and "both" of earlier versions are taken as
    # "whole", with a warning: source images are never masked, so the patches told the domains apart.
    a.VIEW = "whole"
    # Reversal weights over the steps: "constant", or "dann" = times 2 / (1 + exp(-10 p)) - 1, where
    # p goes from 0 to 1 in RAMP_STEPS optimizer steps (0 = SOLVER.MAX_ITER; Ganin and Lempitsky, 2015).
    a.SCHEDULE = "constant"
    a.RAMP_STEPS = 0
    # Each part: WEIGHT of its loss (0 leaves it out), and GRL_WEIGHT, the factor at which its gradient is reversed
    # for the student. A reversal weight of 0 leaves the student alone: the classifiers then only
    # measure how far apart the domains are.
    # One classifier of positions for each feature map; FEATURES: () = all that the backbone has.
    a.IMAGE = CN(dict(ENABLED=False, WEIGHT=1.0, GRL_WEIGHT=0.025, CHANNELS=512, FEATURES=()))
    # One classifier of regions for each level that the box pooler reads. REGIONS: "same" = random proposals in both
    # domains; "published" = random proposals of the target, but of the source those that L_S has sampled, a quarter of
    # which are objects: more than among proposals, so that the classifiers learn to tell objects from background.
    # "same" costs a pass of the box head over as many source regions more. REGIONS_PER_IMAGE: proposals
    # drawn from an image ("published": of the target); 0 = MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE.
    a.INSTANCE = CN(dict(ENABLED=False, WEIGHT=1.0, GRL_WEIGHT=0.1, FC_DIM=1024, DROPOUT=0.5))
    a.INSTANCE.REGIONS = "same"
    a.INSTANCE.REGIONS_PER_IMAGE = 0
    # Consistency of the two, mean |p_img - p_ins|; needs both. GRL_WEIGHT multiplies theirs: -1 hands the
    # gradient on without reversal, at each part's own scale. Published: WEIGHT 1.0 and GRL_WEIGHT -0.1, the same
    # gradient for the features and ten times as much for the classifiers.
    a.CONSISTENCY = CN(dict(ENABLED=False, WEIGHT=0.1, GRL_WEIGHT=-1.0))


def _add_sem_seg_keys(mic):
    # The segmentation path, for students with a segmentation head (SemSegFPNHead). The loss is L_M's
    # with pixel labels, Eq. 6, weighted by the image's quality, Eq. 8.
    s = mic.SEM_SEG = CN()
    # lambda_M of the segmentation; 0 leaves it out. Burn-in and ramp are those of boxes.
    s.WEIGHT = 1.0
    # tau in [0, 1]: a pixel is sure where the teacher's top probability exceeds it. Published: 0.968.
    s.PIXEL_THRESHOLD = 0.968
    # Margins of the original target image (top, bottom, left, right) whose pseudo-labels get weight 0, such as the own
    # car and the rim of a rectified image: below 1 as shares of its height and width, from 1 on in its pixels. They go
    # through the same crop, resizing and flip as the image. Published for Cityscapes (1024 x 2048): 30, 240, 30, 30.
    s.MARGINS = (0, 0, 0, 0)
    # Old keys, which MARGINS replaces: rows of the student's view. They are wrong with random crops and several scales.
    s.IGNORE_TOP = 0
    s.IGNORE_BOTTOM = 0
    # Patch size and ratio where the segmentation trains alone; beside boxes, MODEL.MIC.MASK is used. Published:
    # 64 pixels for images at full resolution (1024 x 2048, crops of 1024), 32 at half (512 x 1024).
    s.MASK = CN(dict(BLOCK_SIZE=64, RATIO=0.7))
    # ClassMix self-training (DACS), the segmentation's L_T: weight of its loss; 0 leaves it out.
    s.MIX_WEIGHT = 0.0


def student_architecture(cfg):
    """Name of the meta-architecture that is trained: MIC's student, or the plain model itself."""
    return cfg.MODEL.MIC.STUDENT if is_mic(cfg) else cfg.MODEL.META_ARCHITECTURE


def is_mic(cfg):
    """Whether the model is MIC, or a registered class of one's own that derives from it."""
    name = cfg.MODEL.META_ARCHITECTURE
    return name in META_ARCH_REGISTRY and getattr(META_ARCH_REGISTRY.get(name), "wraps_student", False)


class ConfigError(MICError, ValueError):
    """A setting that cannot work; the message names the key and what is allowed."""
