"""Keys of two losses on target images: the masked consistency L_M and the adversarial alignment L_T."""

from .rules import (
    ANY_NUMBER,
    AT_LEAST_0,
    COUNT,
    SHARE_BELOW_1,
    TEXT,
    WEIGHT,
    YES_NO,
    Key,
    Section,
    each,
    one_of,
)

QUALITY_MODES = ("teacher", "student", "published", "none")
ALIGNED_REGIONS = ("same", "published")

# fmt: off
LOSS_SECTIONS = (
    Section("Masked consistency", "The loss L_M of the student's masked view against the teacher's pseudo-boxes.", (
        Key("MODEL.MIC.CONSISTENCY.WEIGHT", 1.0, WEIGHT,
            "lambda_M. 0 leaves out L_M and the teacher's pass over target images.",
            source="published: 1.0, also in the released detection config (0.5 is the default of its code)"),
        Key("MODEL.MIC.CONSISTENCY.RAMP_UP_STEPS", 0, AT_LEAST_0,
            "After burn-in, lambda_M grows linearly from 0 over this number of steps; 0 = no ramp.", "optimizer steps"),
        Key("MODEL.MIC.CONSISTENCY.TARGETS", "hard", one_of("hard", "soft"),
            "Targets of the student's regions. hard: the label that a region gets by its overlap with pseudo-boxes; "
            "the loss is weighted by q. soft: the teacher's whole output on the same anchors and sampled regions. All "
            "four terms use it: objectness BCE(sigma(z_S), sigma(z_T)), classes -sum_k p_T(k) log p_S(k), and the "
            "distance of the student's deltas to the teacher's. The two box terms count where they have a weight, and "
            "are weighted by the teacher's probability of an object (of each class). Pseudo-boxes then only decide "
            "which regions are sampled. Each soft loss is the mean of the hard one over the teacher's possible labels, "
            "so QUALITY has no effect (student and published are refused). Masked source images keep their true "
            "labels. It needs an R-CNN student (see MODEL.MIC.STUDENT). The RPN's terms need "
            "MODEL.MIC.TEACHER.INPUT_SIZE 0, because other sizes have other anchors.",
            source="self-training detectors since MIC; published: hard"),
        Key("MODEL.MIC.CONSISTENCY.QUALITY", "teacher", one_of(*QUALITY_MODES),
            "Weight q of each region. teacher: the teacher's probability of the region's label (score of the "
            "pseudo-box, or probability of background). student: the student's probability of its own prediction, "
            "without gradient: max(p, 1 - p) of an anchor, the top probability of a RoI. So its own errors have a high "
            "weight. published: as the authors' detection code. RoIs have the q of student; an anchor has the "
            "student's foreground probability p, whatever its label, with gradient. none: 1. Regions of masked source "
            "images have true boxes, and q = 1 in every mode. Where a whole image has one q (see MODEL.MIC.STUDENT), "
            "student and published are not defined, and are refused.",
            source="Eq. 6-7; published: \"published\""),
        Key("MODEL.MIC.CONSISTENCY.EMPTY_IMAGES", "skip", one_of("skip", "background"),
            "Images without a pseudo-box. skip: they have no loss. background: the whole image is background. With "
            "soft targets, their regions are sampled as background, but compared with the teacher's output, so objects "
            "that it is not sure of are not trained as background. With soft targets, background is the better "
            "choice."),
        Key("MODEL.MIC.CONSISTENCY.RPN_CLS_WEIGHT", 1.0, WEIGHT, "Weight of RPN objectness in L_M; 0 leaves it out."),
        Key("MODEL.MIC.CONSISTENCY.ROI_CLS_WEIGHT", 1.0, WEIGHT,
            "Weight of RoI classification in L_M, and of the losses of RetinaNet and FCOS."),
        Key("MODEL.MIC.CONSISTENCY.RPN_BOX_REG_WEIGHT", 0.0, WEIGHT,
            "Weight of the RPN's box regression in L_M, on pseudo-boxes. All four terms are weighted by q.",
            source="published: 0 (pseudo-boxes are not exact)"),
        Key("MODEL.MIC.CONSISTENCY.ROI_BOX_REG_WEIGHT", 0.0, WEIGHT,
            "Weight of the RoIs' box regression in L_M.", source="published: 0"),
        Key("MODEL.MIC.CONSISTENCY.MASK_WEIGHT", 0.0, WEIGHT,
            "Weight of instance masks in L_M. The teacher's masks of the pseudo-boxes are the labels of the regions "
            "that are matched to them, with the region's q. A pixel's label is whether its probability is at least "
            "0.5; with TARGETS soft it is the probability. It needs MODEL.MASK_ON and an R-CNN student (see "
            "MODEL.MIC.STUDENT).",
            source="published: 0 (boxes alone)"),
        Key("MODEL.MIC.CONSISTENCY.KEYPOINT_WEIGHT", 0.0, WEIGHT,
            "Weight of keypoints in L_M. The teacher's keypoints of the pseudo-boxes are the labels of the regions "
            "that are matched to them (see MODEL.MIC.PSEUDO_KEYPOINTS). The weight of a keypoint in the head's loss is "
            "the teacher's score of it, at most 1, in place of q. It is 1 with QUALITY none and for true labels. "
            "TARGETS soft has no effect on it. It needs MODEL.KEYPOINT_ON and an R-CNN student (see "
            "MODEL.MIC.STUDENT).",
            source="published: 0 (boxes alone)"),
    )),
    Section("Alignment",
        "Adversarial alignment L_T of SADA (Chen et al., IJCV 2021), the host method of MIC's published detection "
        "result. Domain classifiers learn to distinguish source from target. A gradient reversal layer (GRL) trains "
        "the student to prevent this. It is off unless a part is enabled. Each part has a WEIGHT of its loss (0 leaves "
        "it out) and a GRL_WEIGHT, the factor of the reversed gradient. With GRL_WEIGHT 0 the student gets no "
        "gradient: the classifiers then only measure the distance of the domains.", (
        Key("MODEL.MIC.ALIGNMENT.VIEW", "whole", one_of("whole", "masked", "both"),
            "Target views of the classifiers: whole images. masked and both are values of earlier versions. They have "
            "the effect of whole, with a warning: source images are never masked, so the patches revealed the "
            "domain."),
        Key("MODEL.MIC.ALIGNMENT.SCHEDULE", "constant", one_of("constant", "dann"),
            "GRL weights over the steps. dann: multiplied by 2 / (1 + exp(-10 p)) - 1, where p grows from 0 to 1.",
            source="dann: Ganin and Lempitsky, 2015; published: constant"),
        Key("MODEL.MIC.ALIGNMENT.RAMP_STEPS", 0, AT_LEAST_0,
            "Steps over which dann's p grows; 0 = SOLVER.MAX_ITER.", "optimizer steps"),
        Key("MODEL.MIC.ALIGNMENT.IMAGE.ENABLED", False, YES_NO,
            "One classifier of positions for each feature map."),
        Key("MODEL.MIC.ALIGNMENT.IMAGE.WEIGHT", 1.0, WEIGHT, "Weight of its loss.", source="published: 1.0"),
        Key("MODEL.MIC.ALIGNMENT.IMAGE.GRL_WEIGHT", 0.025, WEIGHT, "Factor of its reversed gradient.",
            source="published: 0.025"),
        Key("MODEL.MIC.ALIGNMENT.IMAGE.CHANNELS", 512, COUNT, "Width of each classifier.", "channels", "authors' code"),
        Key("MODEL.MIC.ALIGNMENT.IMAGE.FEATURES", (), each(TEXT, 0),
            "Names of feature maps; () = all of the backbone."),
        Key("MODEL.MIC.ALIGNMENT.INSTANCE.ENABLED", False, YES_NO,
            "One classifier of regions for each level that the box pooler reads."),
        Key("MODEL.MIC.ALIGNMENT.INSTANCE.WEIGHT", 1.0, WEIGHT, "Weight of its loss.", source="published: 1.0"),
        Key("MODEL.MIC.ALIGNMENT.INSTANCE.GRL_WEIGHT", 0.1, WEIGHT, "Factor of its reversed gradient.",
            source="published: 0.1"),
        Key("MODEL.MIC.ALIGNMENT.INSTANCE.FC_DIM", 1024, COUNT, "Width of each classifier.", "channels",
            "authors' code"),
        Key("MODEL.MIC.ALIGNMENT.INSTANCE.DROPOUT", 0.5, SHARE_BELOW_1, "Dropout in the classifiers.", "probability",
            "authors' code"),
        Key("MODEL.MIC.ALIGNMENT.INSTANCE.REGIONS", "same", one_of(*ALIGNED_REGIONS),
            "same: random proposals in both domains. This costs one more pass of the box head over these source "
            "regions. published: random proposals of the target, and the source's regions that L_S has sampled. A "
            "quarter of the latter are objects, more than among proposals, so the classifiers learn to distinguish "
            "objects from background.",
            source="published: \"published\""),
        Key("MODEL.MIC.ALIGNMENT.INSTANCE.REGIONS_PER_IMAGE", 0, AT_LEAST_0,
            "Proposals drawn from each image (with REGIONS published: from each target image); 0 = "
            "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE.", "regions"),
        Key("MODEL.MIC.ALIGNMENT.AGREEMENT.ENABLED", False, YES_NO,
            "Agreement of the two classifiers, mean |p_img - p_ins|. It needs both."),
        Key("MODEL.MIC.ALIGNMENT.AGREEMENT.WEIGHT", 0.1, WEIGHT, "Weight of its loss.", source="published: 1.0"),
        Key("MODEL.MIC.ALIGNMENT.AGREEMENT.GRL_WEIGHT", -1.0, ANY_NUMBER,
            "Factor of the two GRL weights. -1: the gradient is not reversed, and keeps the scale of each part. The "
            "published values WEIGHT 1.0 and GRL_WEIGHT -0.1 give features the same gradient as 0.1 and -1.0, and "
            "classifiers a gradient ten times as large.", source="published: -0.1"),
    )),
)
# fmt: on
