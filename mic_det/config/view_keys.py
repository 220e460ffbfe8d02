"""Keys of the student's views: the patch mask and the strong augmentation."""

from .rules import (
    AT_LEAST_0,
    SHARE,
    SHARE_BELOW_1,
    YES_NO,
    Key,
    Rule,
    Section,
    is_number,
    number,
    one_of,
)

SIGMAS = Rule(
    lambda v: len(v) == 2 and all(map(is_number, v)) and 0 < v[0] <= v[1],
    "two numbers (low, high), 0 < low <= high",
)
STRENGTHS = Rule(
    lambda v: len(v) in (0, 4) and all(map(is_number, v)) and all(0 <= x <= 1 for x in v) and (not v or v[3] <= 0.5),
    "(), or four numbers in [0, 1], the last one (hue) at most 0.5",
)
AREAS = Rule(
    lambda v: len(v) == 2 and all(map(is_number, v)) and 0 < v[0] <= v[1] <= 1,
    "two numbers (low, high), 0 < low <= high <= 1",
)

# Rule, text and unit of keys that MODEL.MIC.MASK and MODEL.MIC.SEM_SEG.MASK share
BLOCK_SIZE = (AT_LEAST_0, "Patch size b in pixels of the student's view; 0 = use BLOCK_SHARE.", "pixels")
BLOCK_SHARE = (
    number(0, 1, open_left=True),
    "Patch size b as a share of the short side of each image in the student's view. It is rounded to whole pixels, at "
    "least 1. It has an effect where BLOCK_SIZE is 0.",
    "share of the short side",
)
MASK_PROB = (
    SHARE,
    "Probability that an image of the masked view is masked. The other images have the strong augmentation alone.",
    "probability",
)

# fmt: off
VIEW_SECTIONS = (
    Section("Patch mask",
        "Random square patches of the normalised image are set to 0. The log of a training reports their size. In "
        "earlier versions, BLOCK_SIZE had the default 32 pixels (SEM_SEG.MASK: 64) for images of any size. A config "
        "that sets BLOCK_SIZE works as before.", (
        Key("MODEL.MIC.MASK.BLOCK_SIZE", 0, *BLOCK_SIZE,
            "Sec. 3.1, Eq. 4-5; published: 32 for detection (short side 800)"),
        Key("MODEL.MIC.MASK.BLOCK_SHARE", 0.04, *BLOCK_SHARE, "published: 32 of 800"),
        Key("MODEL.MIC.MASK.RATIO", 0.5, SHARE_BELOW_1, "Share r of patches that are hidden; 0 = no mask.",
            "share of patches", "Sec. 3.1; published: 0.5 for detection, 0.7 for segmentation"),
        Key("MODEL.MIC.MASK.PROB", 1.0, *MASK_PROB, "published: 1.0"),
        Key("MODEL.MIC.MASK.DOMAINS", "target", one_of("target", "source", "both", "separate"),
            "Domains whose masked views are trained on. Those of the source have their true labels. separate: as many "
            "images as the target has, half of them of the source; only for label maps without boxes.",
            source="the paper's ablation; published: target, and separate for Cityscapes -> ACDC and Dark Zurich"),
    )),
    Section("Strong augmentation", "Colour changes of the student's view before the mask, drawn at each step.", (
        Key("MODEL.MIC.STRONG_AUG.ON_SOURCE", False, YES_NO, "True: source images get them, too.",
            source="mean-teacher detectors; published: False"),
        Key("MODEL.MIC.STRONG_AUG.ON_MASKED", True, YES_NO,
            "False: masked images keep their colours. Mixed images (MODEL.MIC.SEM_SEG.MIX_WEIGHT) still change.",
            source="published: True; False for Cityscapes -> ACDC and Dark Zurich"),
        Key("MODEL.MIC.STRONG_AUG.JITTER_STRENGTH", 0.2, number(0, 0.5),  # torchvision: half a turn of the hue
            "Largest change of brightness, contrast, saturation and hue.", source="published: 0.2"),
        Key("MODEL.MIC.STRONG_AUG.JITTER_STRENGTHS", (), STRENGTHS,
            "Largest change of each: brightness, contrast, saturation, hue. () = JITTER_STRENGTH for all.",
            source="published: 0.2 for all; strong mean teachers: 0.4, 0.4, 0.4, 0.1"),
        Key("MODEL.MIC.STRONG_AUG.JITTER_PROB", 0.8, SHARE, "Probability of these changes.", "probability"),
        Key("MODEL.MIC.STRONG_AUG.GRAYSCALE_PROB", 0.0, SHARE, "Probability that an image becomes grey.", "probability",
            "published: 0; strong mean teachers: 0.2"),
        Key("MODEL.MIC.STRONG_AUG.BLUR_SIGMA", (0.15, 1.15), SIGMAS,
            "Gaussian blur: its sigma is drawn uniformly from this range.", "pixels"),
        Key("MODEL.MIC.STRONG_AUG.BLUR_PROB", 0.5, SHARE, "Probability of the blur.", "probability"),
        Key("MODEL.MIC.STRONG_AUG.COLOR_TRANSFER_PROB", 0.0, SHARE,
            "Probability that a source image gets colours of a target image of the batch: the mean and the standard "
            "deviation of each channel move a random part of the way. It comes before the other changes, and works "
            "without ON_SOURCE.", "probability", "after Reinhard et al., 2001; published: 0"),
        Key("MODEL.MIC.STRONG_AUG.ERASE_PROB", 0.0, SHARE,
            "Probability that a random rectangle of a source image is set to the mean colour. It needs ON_SOURCE. "
            "Target images are never erased: they have the patch mask.", "probability",
            "random erasing (Zhong et al., 2020); published: 0"),
        Key("MODEL.MIC.STRONG_AUG.ERASE_AREA", (0.02, 0.2), AREAS,
            "Share of the rectangle in the image's area, drawn uniformly from this range.", "share of the image"),
    )),
)
# fmt: on
