"""Keys of DAFormer and HRDA: encoders, decoder, sampling, crops, feature distance, optimizer and the two scales."""

from .rules import (
    AT_LEAST_0,
    COUNT,
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
    number,
    one_of,
)

BETA = number(0, 1, open_right=True)
CROP = Rule(
    lambda v: len(v) == 2 and all(x == int(x) and x > 0 and x % 32 == 0 for x in v),
    "two whole numbers (height, width), multiples of 32",
)
WINDOW = Rule(
    lambda v: len(v) in (0, 2) and all(x == int(x) and x > 0 for x in v), "() or two whole numbers (height, width)"
)

# fmt: off
SEGMENTATION_SECTIONS = (
    Section("DAFormer: network",
        "Hoyer et al., \"DAFormer\", CVPR 2022. [daformer_hrda.md](daformer_hrda.md) shows how its parts fit.", (
        Key("MODEL.MIT.NAME", "b5", one_of("b0", "b1", "b2", "b3", "b4", "b5"),
            "For MODEL.BACKBONE.NAME build_mit_backbone, SegFormer's encoder. MODEL.WEIGHTS takes SegFormer's file of "
            "ImageNet weights (mit_b5.pth), or the one of transformers (nvidia/mit-b5).", source="published: b5"),
        Key("MODEL.MIT.DROP_PATH", 0.1, SHARE_BELOW_1,
            "Probability that a residual branch of the last block is dropped in training. It grows linearly from 0 "
            "over the blocks.", "probability", "published: 0.1"),
        Key("MODEL.DAFORMER_HEAD.DILATIONS", (6, 12, 18), each(COUNT),
            "For MODEL.SEM_SEG_HEAD.NAME DAFormerHead: dilations of its depthwise separable 3 x 3 convolutions, which "
            "are parallel to a 1 x 1 convolution. All have MODEL.SEM_SEG_HEAD.CONVS_DIM channels.", "pixels",
            "published: 6, 12, 18; CONVS_DIM 256, NORM BN"),
        Key("MODEL.DAFORMER_HEAD.DROPOUT", 0.1, SHARE_BELOW_1, "Share of its channels that are dropped in training.",
            "probability", "published: 0.1"),
    )),
    Section("DAFormer: rare class sampling",
        "For DATALOADER.SAMPLER_TRAIN RareClassSampler. A class is drawn with P(c) = softmax((1 - f_c) / T), where f_c "
        "is its share of all labelled source pixels. Then one of the source images with enough pixels of the class is "
        "drawn. The pixels are counted once, in the label maps on disk. The user's cache folder keeps the counts.", (
        Key("DATALOADER.RARE_CLASSES.TEMPERATURE", 0.01, POSITIVE, "T; a lower one draws rare classes more often.",
            source="published: 0.01"),
        Key("DATALOADER.RARE_CLASSES.MIN_PIXELS", 3000, AT_LEAST_0,
            "An image has enough of a class where more than this number of its pixels belong to it.", "pixels",
            "published: 3000"),
        Key("DATALOADER.RARE_CLASSES.MIN_CROP_PIXELS", 1500, AT_LEAST_0,
            "A random crop (INPUT.CROP) is drawn again, at most 10 times, until it has more pixels of the drawn class.",
            "pixels", "published: 1500 for crops of 512, 6000 for crops of 1024"),
    )),
    Section("DAFormer: crops", "Detectron2's INPUT.CROP takes a crop of the image before it is resized.", (
        Key("INPUT.CROP.AFTER_RESIZE", False, YES_NO, "True: crops are taken from the resized image instead.",
            source="published: True, with TYPE absolute and SIZE 512 x 512 (HRDA: 1024 x 1024)"),
        Key("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 1.0, number(0, 1, open_left=True),
            "A crop of a labelled image is drawn again, at most 10 times, until no class covers a larger share of its "
            "labelled pixels; 1 = any crop. Crops of target images use no labels.", "share of pixels",
            "published: 0.75"),
        Key("INPUT.MIN_SIZE_TRAIN_TARGET", (), each(AT_LEAST_0, 0),
            "Short sides of target images in training; () = INPUT.MIN_SIZE_TRAIN, as for the source.", "pixels",
            "published for GTA5 -> Cityscapes: 512 (source 720, MAX_SIZE_TRAIN 1280); HRDA: twice that"),
        Key("INPUT.MAX_SIZE_TRAIN_TARGET", 0, AT_LEAST_0,
            "Limit of their longer side; 0 = INPUT.MAX_SIZE_TRAIN.", "pixels"),
    )),
    Section("DAFormer: feature distance",
        "The thing-class ImageNet feature distance. It keeps the student's encoder near a frozen copy with ImageNet "
        "weights where source images show things. The loss is the Euclidean distance of the two features. It is "
        "averaged over the positions whose label patch is mostly one thing class.", (
        Key("MODEL.MIC.FEATURE_DISTANCE.WEIGHT", 0.0, WEIGHT, "Weight of the term; 0 leaves it out.",
            source="published: 0.005"),
        Key("MODEL.MIC.FEATURE_DISTANCE.WEIGHTS", "", TEXT,
            "File of the frozen copy's ImageNet weights. \"\" = MODEL.WEIGHTS, which must then have weights of a "
            "backbone alone."),
        Key("MODEL.MIC.FEATURE_DISTANCE.CLASSES", (6, 7, 11, 12, 13, 14, 15, 16, 17, 18), each(AT_LEAST_0),
            "Labels of things. The default is for Cityscapes' 19 classes.", source="published: the default"),
        Key("MODEL.MIC.FEATURE_DISTANCE.MIN_RATIO", 0.75, SHARE,
            "Least share of the pixels of a label patch that must be of one class.", "share of pixels",
            "published: 0.75"),
    )),
    Section("Optimizer", "", (
        Key("SOLVER.OPTIMIZER", "SGD", one_of("SGD", "AdamW"),
            "AdamW uses SOLVER.BASE_LR, WEIGHT_DECAY, WEIGHT_DECAY_NORM and BIAS_LR_FACTOR, and no momentum.",
            source="published for DAFormer and HRDA: AdamW, BASE_LR 6e-5, WEIGHT_DECAY 0.01, WEIGHT_DECAY_NORM 0"),
        Key("SOLVER.BETAS", (0.9, 0.999), each(BETA, 2),
            "AdamW's coefficients of the averages of gradients and of their squares.",
            source="published: 0.9, 0.999"),
        Key("SOLVER.HEAD_LR_FACTOR", 1.0, POSITIVE,
            "Factor of the learning rate of everything outside of the backbone.", source="published: 10"),
        Key("SOLVER.POLY_LR_POWER", 1.0, POSITIVE,
            "For SOLVER.LR_SCHEDULER_NAME WarmupPolyLR: after the warm-up, the factor of the rate is (1 - step / "
            "MAX_ITER) to this power.", source="published: 1, WARMUP_ITERS 1500, WARMUP_FACTOR 1e-6"),
    )),
    Section("HRDA",
        "Hoyer et al., \"HRDA\", ECCV 2022. For MODEL.BACKBONE.NAME build_hrda_backbone with MODEL.SEM_SEG_HEAD.NAME "
        "HRDAHead, in a SemanticSegmentor. One backbone and one head see the image at a lower resolution (the context) "
        "and a crop of it at full resolution (the detail).", (
        Key("MODEL.HRDA.BACKBONE", "build_mit_backbone", TEXT, "The backbone of both scales, which has its own keys."),
        Key("MODEL.HRDA.HEAD", "DAFormerHead", TEXT, "The head of both scales, with the keys of MODEL.SEM_SEG_HEAD."),
        Key("MODEL.HRDA.CONTEXT_SCALE", 2, one_of(1, 2, 4),
            "Factor by which the context is smaller than the image.", source="published: 2"),
        Key("MODEL.HRDA.DETAIL_SIZE", (512, 512), CROP,
            "Height and width of the detail crop in training, which has a random place in each image. In evaluation "
            "and for pseudo-labels, windows of this size cover the image.", "pixels",
            "published: 512, 512 (crops of 1024)"),
        Key("MODEL.HRDA.OVERLAP", True, YES_NO,
            "True: these windows overlap by half, and their predictions are averaged.", source="published: True"),
        Key("MODEL.HRDA.DETAIL_WEIGHT", 0.1, SHARE_BELOW_1,
            "lambda_d: weight of the loss of the detail crop. The fused prediction has weight 1 - lambda_d. Where the "
            "detail crop covers the whole image, the context also has a loss with weight lambda_d.",
            source="published: 0.1"),
        Key("MODEL.HRDA.ATTENTION_PER_CLASS", True, YES_NO,
            "True: one map of scale attention per class. False: one map for all classes.", source="published: True"),
        Key("MODEL.SLIDING.SIZE", (), WINDOW,
            "For MODEL.META_ARCHITECTURE or MODEL.MIC.STUDENT SlidingSegmentor: height and width of the windows that "
            "cover an image in evaluation. Their logits are averaged. () = the whole image at once.", "pixels",
            "published for HRDA: 1024, 1024"),
        Key("MODEL.SLIDING.STRIDE", (), WINDOW, "Distance from one window to the next; () = half of SIZE.", "pixels",
            "published for HRDA: 512, 512"),
    )),
)
# fmt: on
