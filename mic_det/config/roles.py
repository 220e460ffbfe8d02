"""Which data sets a training has, and whether its losses can be computed from them."""

from ..errors import ConfigError
from .label_kinds import consistency_weights, label_kinds, mask_keys
from .models import has_labels, is_label_free, is_mic


def check_roles(cfg):
    """The model must have the sets that it learns from, and use those that it is given.

    Raises:
        ConfigError: names the key that is missing or has no effect, and the remedy.
    """
    mic, adapts, sets = cfg.MODEL.MIC, is_mic(cfg), cfg.DATASETS
    learns_from_target = any(consistency_weights(cfg).values()) and mic.MASK.DOMAINS != "source"
    if not has_labels(cfg) and not is_label_free(cfg):
        raise ConfigError(
            "DATASETS.TRAIN is empty: name at least one labelled source set. Without source images, use MIC, and name "
            "the target's images in DATASETS.TARGET and a trained checkpoint in MODEL.WEIGHTS."
        )
    if adapts and learns_from_target and not sets.TARGET:
        raise ConfigError(
            "DATASETS.TARGET is empty: name a set of target images. Without one, MODEL.MIC.MASK.DOMAINS must be "
            "'source', or MODEL.MIC.CONSISTENCY.WEIGHT 0 (an EMA teacher alone)."
        )
    for key in ("TARGET", "TARGET_LABELLED"):
        if sets[key] and not adapts:
            raise ConfigError(
                f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}, which learns from DATASETS.TRAIN alone: "
                f"set DATASETS.{key} to (), or use MIC."
            )
    if sets.CLASS_NAMES and sets.TRAIN:
        raise ConfigError(
            f"DATASETS.CLASS_NAMES is {list(sets.CLASS_NAMES)}, but the names of the classes are those of "
            f"DATASETS.TRAIN {sets.TRAIN[0]!r}: set it to ()."
        )
    if sets.TARGET_LABELLED and mic.ALIGNMENT.INSTANCE.ENABLED and mic.ALIGNMENT.INSTANCE.REGIONS == "published":
        raise ConfigError(
            "MODEL.MIC.ALIGNMENT.INSTANCE.REGIONS is 'published', which takes the regions of L_S as the source's, but "
            "DATASETS.TARGET_LABELLED adds target images to L_S: use 'same'."
        )
    if adapts and not sets.TRAIN:
        _check_without_source(cfg)
    if is_label_free(cfg):
        _check_without_labels(cfg)
    if mic.LABELLER.JSON:
        _check_labeller(cfg, learns_from_target)


MASK, SELF_TRAINING, LABELS = "mask consistency", "self-training", "labels alone"


def way_of_training(cfg):
    """What a training learns from: target images with hidden patches and pseudo-labels (:data:`MASK`), those without
    hidden patches (:data:`SELF_TRAINING`), or no pseudo-labels at all (:data:`LABELS`)."""
    mic, mask = cfg.MODEL.MIC, mask_keys(cfg)
    if not is_mic(cfg) or not cfg.DATASETS.TARGET:
        return LABELS
    consistent = any(consistency_weights(cfg).values()) and mic.MASK.DOMAINS != "source"
    if consistent and mask.RATIO > 0 and mask.PROB > 0:
        return MASK
    mixed = "pixels" in label_kinds(cfg) and mic.SEM_SEG.MIX_WEIGHT > 0
    return SELF_TRAINING if consistent or mixed else LABELS


def label_free_set(cfg):
    """The set of target images that ``TEST.LABEL_FREE`` looks at.

    Raises:
        ConfigError: where there is none.
    """
    names = (cfg.TEST.LABEL_FREE.DATASET, *cfg.DATASETS.TARGET, *cfg.DATASETS.TARGET_LABELLED)
    name = next(filter(None, names), None)
    if name is None:
        raise ConfigError(
            "TEST.LABEL_FREE.ENABLED is True, but DATASETS.TARGET is empty: name target images in "
            "TEST.LABEL_FREE.DATASET."
        )
    return name


def _check_without_source(cfg):
    """Losses that need source images must be off."""
    mic = cfg.MODEL.MIC
    a = mic.ALIGNMENT
    needs = {
        "MODEL.MIC.MASK.DOMAINS": (mic.MASK.DOMAINS != "target", "target"),
        "MODEL.MIC.ALIGNMENT.IMAGE.ENABLED": (a.IMAGE.ENABLED and a.IMAGE.WEIGHT, False),
        "MODEL.MIC.ALIGNMENT.INSTANCE.ENABLED": (a.INSTANCE.ENABLED and a.INSTANCE.WEIGHT, False),
        "MODEL.MIC.SEM_SEG.MIX_WEIGHT": ("pixels" in label_kinds(cfg) and mic.SEM_SEG.MIX_WEIGHT, 0.0),
        "MODEL.MIC.FEATURE_DISTANCE.WEIGHT": (mic.FEATURE_DISTANCE.WEIGHT, 0.0),
        "MODEL.MIC.CDAN.WEIGHT": (mic.CDAN.WEIGHT, 0.0),
        "MODEL.KEYPOINT_ON": (cfg.MODEL.KEYPOINT_ON, False),
    }
    for key, (on, off) in needs.items():
        if on:
            raise ConfigError(f"{key} needs source images, but DATASETS.TRAIN is empty: set it to {off!r}.")


def _check_without_labels(cfg):
    """Self-training alone needs a trained model, and L_M from the first step on."""
    mic = cfg.MODEL.MIC
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError(
            "DATASETS.TRAIN is empty, so the training has no labels: set MODEL.WEIGHTS to a checkpoint of a trained "
            "model. Its pseudo-labels are all that is learned from."
        )
    if not any(consistency_weights(cfg).values()):
        raise ConfigError(
            "DATASETS.TRAIN is empty and MODEL.MIC.CONSISTENCY.WEIGHT is 0, so there is no loss: set it to 1.0."
        )
    if mic.BURN_IN_STEPS:
        raise ConfigError(
            f"MODEL.MIC.BURN_IN_STEPS is {mic.BURN_IN_STEPS}, but burn-in trains on labelled images, and there are "
            "none (DATASETS.TRAIN is empty): set it to 0."
        )
    if mic.PSEUDO_BOXES.ADAPT == "class_shares":
        raise ConfigError(
            "MODEL.MIC.PSEUDO_BOXES.ADAPT is 'class_shares', which needs the true boxes of labelled images, and there "
            "are none (DATASETS.TRAIN is empty): use 'none'."
        )


def _check_labeller(cfg, learns_from_target):
    key, mic = "MODEL.MIC.LABELLER.JSON", cfg.MODEL.MIC
    if not (is_mic(cfg) and learns_from_target and "boxes" in label_kinds(cfg) and mic.CONSISTENCY.WEIGHT):
        raise ConfigError(
            f"{key} is {mic.LABELLER.JSON!r}, but its boxes have an effect only in the masked loss of MIC on target "
            "images with boxes: set it to '', or use MIC with a detector and MODEL.MIC.CONSISTENCY.WEIGHT 1.0."
        )
    if mic.CONSISTENCY.TARGETS == "soft":
        raise ConfigError(
            f"{key} is {mic.LABELLER.JSON!r}, but with MODEL.MIC.CONSISTENCY.TARGETS 'soft' the teacher's own outputs "
            "are the targets: use 'hard'."
        )
    p, sure = mic.PSEUDO_BOXES, mic.LABELLER.SURE_SCORE
    if sure and not 0 < p.SCORE_THRESHOLD < 1:
        raise ConfigError(
            f"MODEL.MIC.LABELLER.SURE_SCORE is {sure}, which is scaled to MODEL.MIC.PSEUDO_BOXES.SCORE_THRESHOLD, but "
            f"that is {p.SCORE_THRESHOLD}: use a threshold between 0 and 1, or SURE_SCORE 0."
        )
