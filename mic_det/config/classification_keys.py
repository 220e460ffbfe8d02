"""Keys of image classification: the classifier, its images, and the losses L_T of SDAT (MCC, CDAN, SAM)."""

from .rules import (
    AT_LEAST_0,
    COUNT,
    POSITIVE,
    WEIGHT,
    Key,
    Rule,
    Section,
    is_number,
    one_of,
)

SCALES = Rule(
    lambda v: len(v) == 2 and all(map(is_number, v)) and 0 < v[0] <= v[1] <= 1,
    "two numbers (low, high), 0 < low <= high <= 1",
)

# fmt: off
CLASSIFICATION_SECTIONS = (
    Section("Image classes",
        "For MODEL.META_ARCHITECTURE or MODEL.MIC.STUDENT ImageClassifier: one class for each image. L_M compares the "
        "student's prediction of the masked image with the teacher's most probable class. With "
        "MODEL.MIC.CONSISTENCY.QUALITY teacher, the teacher's probability of this class weights the image; with none, "
        "the weight is 1. The mask is that of MODEL.MIC.MASK. The losses L_T are those of SDAT: minimum class "
        "confusion, conditional adversarial alignment and sharpness-aware minimisation. Each is off by default.", (
        Key("MODEL.IMAGE_CLASSIFIER.NUM_CLASSES", 12, COUNT, "Classes of images."),
        Key("MODEL.IMAGE_CLASSIFIER.BOTTLENECK", 256, AT_LEAST_0,
            "Length of the embedding: a linear layer, a norm and ReLU between the pooled last map of the backbone and "
            "the linear classifier. 0 = the pooled features are the embedding.", "channels", "SDAT: 256"),
        Key("MODEL.IMAGE_CLASSIFIER.NORM", "BN", one_of("BN", "LN", ""),
            "Norm of the bottleneck: BatchNorm, LayerNorm or none.", source="SDAT: BN"),
        Key("INPUT.IMAGE_CLASS.SIZE", 256, COUNT,
            "Images of a classifier are resized to a square of this side. The other keys of INPUT that resize or crop "
            "have no effect on them. INPUT.RANDOM_FLIP has.", "pixels", "SDAT: 256"),
        Key("INPUT.IMAGE_CLASS.CROP", 224, COUNT,
            "Side of the square that is cut from it. Evaluation cuts the centre.", "pixels", "SDAT: 224"),
        Key("INPUT.IMAGE_CLASS.TRAIN_CROP", "random", one_of("center", "random", "random_resized"),
            "The cut in training. center: the centre. random: anywhere. random_resized: a part of random area (SCALE) "
            "and of an aspect ratio in [3/4, 4/3], resized to CROP.",
            source="SDAT: center for VisDA-2017, random_resized for Office-Home"),
        Key("INPUT.IMAGE_CLASS.SCALE", (0.08, 1.0), SCALES,
            "Area of the part that random_resized cuts.", "share of the image", "torchvision"),
        Key("MODEL.MIC.MCC.WEIGHT", 0.0, WEIGHT,
            "Weight of minimum class confusion on target images (Jin et al., ECCV 2020); 0 leaves it out.",
            source="SDAT: 1.0"),
        Key("MODEL.MIC.MCC.TEMPERATURE", 2.0, POSITIVE, "Logits are divided by it before the softmax of this loss.",
            source="MIC: 2 with ViT, 3 with ResNet-101"),
        Key("MODEL.MIC.CDAN.WEIGHT", 0.0, WEIGHT,
            "Weight of conditional adversarial alignment (Long et al., NeurIPS 2018): a domain classifier of the outer "
            "product of class probabilities and embedding, behind a gradient reversal. 0 leaves it out.",
            source="SDAT: 1.0"),
        Key("MODEL.MIC.CDAN.FC_DIM", 1024, COUNT, "Width of the two hidden layers of the domain classifier.",
            "channels", "SDAT: 1024"),
        Key("MODEL.MIC.CDAN.RAMP_STEPS", 1000, AT_LEAST_0,
            "The reversed gradient is multiplied by 2 / (1 + exp(-i / RAMP_STEPS)) - 1 at step i; 0 = by 1.",
            "optimizer steps", "SDAT: 1000"),
        Key("MODEL.MIC.SAM.RHO", 0.0, WEIGHT,
            "Sharpness-aware minimisation of the classification losses (SDAT, Rangwani et al., ICML 2022). The "
            "gradient g of L_S, MCC and L_M moves the student's weights by RHO g / ||g||. There, the gradient of all "
            "losses is taken for the step of the optimizer. A step takes about twice the time. 0 = off.",
            source="SDAT: 0.02"),
    )),
    Section("Inverse decay of the learning rate",
        "For SOLVER.LR_SCHEDULER_NAME WarmupInverseLR: the rate at step i is BASE_LR (1 + GAMMA i)^-POWER.", (
        Key("SOLVER.INVERSE_LR.GAMMA", 0.001, WEIGHT, "Decay in each step.", source="SDAT: 0.001"),
        Key("SOLVER.INVERSE_LR.POWER", 0.75, WEIGHT, "Exponent.", source="SDAT: 0.75"),
    )),
)
# fmt: on
