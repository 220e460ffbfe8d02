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
            "lambda_M. 0 leaves L_M out, and the teacher's pass over target images with it.",
            source="published: 1.0, in the released detection config too (0.5 is only its code's default)"),
        Key("MODEL.MIC.CONSISTENCY.RAMP_UP_STEPS", 0, AT_LEAST_0,
            "After burn-in, lambda_M grows linearly from 0 over this number of steps; 0 = at once.", "optimizer steps"),
        Key("MODEL.MIC.CONSISTENCY.TARGETS", "hard", one_of("hard", "soft"),
            "What the student's regions are compared with. hard: the label that a region gets by its overlap with "
            "pseudo-boxes, times q. soft: the teacher's whole output on the same anchors and the same sampled regions, "
            "in all four terms: objectness BCE(sigma(z_S), sigma(z_T)), classes -sum_k p_T(k) log p_S(k), and, where "
            "the two box terms have a weight, the distance of the student's deltas to the teacher's, weighted by the "
            "teacher's probability of an object (of each class). Pseudo-boxes then only say which regions are sampled. "
            "Each soft loss is the mean of the hard one over the teacher's possible labels, so QUALITY has no effect "
            "(student and published are refused). Masked source images keep their true labels. For R-CNN students "
            "(see MODEL.MIC.STUDENT). The RPN's terms need MODEL.MIC.TEACHER.INPUT_SIZE 0, as other sizes have other "
            "anchors.",
            source="self-training detectors since MIC; published: hard"),
        Key("MODEL.MIC.CONSISTENCY.QUALITY", "teacher", one_of(*QUALITY_MODES),
            "Weight q of each region. teacher: the teacher's probability for the label that the region is given (score "
            "of the pseudo-box, background). student: the student's probability for what it predicts itself, without "
            "gradient: max(p, 1 - p) of an anchor, the top probability of a RoI; the weight of its own errors is high. "
            "published: what the authors' detection code does: RoIs as student; an anchor has the student's foreground "
            "probability p, whatever its label, and the gradient goes through it. none: 1. Regions of masked source "
            "images, whose boxes are true, have q = 1 in every mode. Where an image has a single q (see "
            "MODEL.MIC.STUDENT), student and published are not defined, and are refused.",
            source="Eq. 6-7; published: \"published\""),
        Key("MODEL.MIC.CONSISTENCY.EMPTY_IMAGES", "skip", one_of("skip", "background"),
            "Images without a pseudo-box are skipped, or are all background. With soft targets, background means that "
            "they take part: their regions are sampled as background, but compared with what the teacher sees there. "
            "Objects that it half sees are then not taught as background, so that it is the better choice there."),
        Key("MODEL.MIC.CONSISTENCY.RPN_CLS_WEIGHT", 1.0, WEIGHT, "Weight of RPN objectness in L_M; 0 leaves it out."),
        Key("MODEL.MIC.CONSISTENCY.ROI_CLS_WEIGHT", 1.0, WEIGHT,
            "Weight of RoI classification in L_M, and of the losses of RetinaNet and FCOS."),
        Key("MODEL.MIC.CONSISTENCY.RPN_BOX_REG_WEIGHT", 0.0, WEIGHT,
            "Weight of the RPN's box regression in L_M, on pseudo-boxes. All four are weighted by q.",
            source="published: 0 (pseudo-boxes are not that exact)"),
        Key("MODEL.MIC.CONSISTENCY.ROI_BOX_REG_WEIGHT", 0.0, WEIGHT,
            "Weight of the RoIs' box regression in L_M.", source="published: 0"),
    )),
    Section("Alignment",
        "Adversarial alignment L_T of SADA (Chen et al., IJCV 2021), the detector that MIC's published detection "
        "result adapts. Domain classifiers learn to tell source from target. A gradient reversal layer (GRL) trains "
        "the student to make that impossible. Off unless a part is enabled. Each part has a WEIGHT of its loss (0 "
        "leaves it out) and a GRL_WEIGHT: the factor of the reversed gradient for the student. A GRL_WEIGHT of 0 "
        "leaves the student alone: the classifiers then only measure how far apart the domains are.", (
        Key("MODEL.MIC.ALIGNMENT.VIEW", "whole", one_of("whole", "masked", "both"),
            "Target views that the classifiers see: whole images. masked and both, of earlier versions, are taken as "
            "whole, with a warning: source images are never masked, so the patches told the domains apart."),
        Key("MODEL.MIC.ALIGNMENT.SCHEDULE", "constant", one_of("constant", "dann"),
            "GRL weights over the steps. dann: times 2 / (1 + exp(-10 p)) - 1, where p goes from 0 to 1.",
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
            "same: random proposals in both domains, which costs a pass of the box head over that number of source "
            "regions more. published: random proposals of the target, but of the source those that L_S has sampled. A "
            "quarter of them are objects, more than among proposals, so the classifiers learn to tell objects from "
            "background.",
            source="published: \"published\""),
        Key("MODEL.MIC.ALIGNMENT.INSTANCE.REGIONS_PER_IMAGE", 0, AT_LEAST_0,
            "Proposals drawn from an image (with REGIONS published: of the target); 0 = "
            "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE.", "regions"),
        Key("MODEL.MIC.ALIGNMENT.AGREEMENT.ENABLED", False, YES_NO,
            "Agreement of the two classifiers, mean |p_img - p_ins|. It needs both."),
        Key("MODEL.MIC.ALIGNMENT.AGREEMENT.WEIGHT", 0.1, WEIGHT, "Weight of its loss.", source="published: 1.0"),
        Key("MODEL.MIC.ALIGNMENT.AGREEMENT.GRL_WEIGHT", -1.0, ANY_NUMBER,
            "Multiplies the two GRL weights: -1 hands the gradient on without reversal, at each part's own scale. The "
            "published pair of 1.0 and -0.1 gives features the same gradient as 0.1 and -1.0, and classifiers ten "
            "times as much.", source="published: -0.1"),
    )),
)
# fmt: on
