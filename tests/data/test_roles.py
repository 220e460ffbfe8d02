"""A model must have the data sets that it learns from."""

import pytest

from helpers.models import tiny_cfg
from mic_det.config.roles import LABELS, MASK, SELF_TRAINING, way_of_training
from mic_det.data.run_sets import check_datasets
from mic_det.errors import ConfigError

BOTH = {"DATASETS__TRAIN": ("a",), "DATASETS__TARGET": ("b",)}
FREE = {"DATASETS__TARGET": ("b",), "MODEL__WEIGHTS": "start.pth"}
LABELLER = {"MODEL__MIC__LABELLER__JSON": "found.json"}


@pytest.mark.parametrize(
    "keys, message",
    [
        ({}, "DATASETS.TRAIN is empty"),
        ({"DATASETS__TRAIN": ("a",)}, "DATASETS.TARGET is empty"),
        ({"DATASETS__TRAIN": ("a",), "MODEL__MIC__MASK__DOMAINS": "both"}, "DATASETS.TARGET is empty"),
        (
            {"DATASETS__TRAIN": ("a",), "DATASETS__TARGET": ("b",), "MODEL__META_ARCHITECTURE": "GeneralizedRCNN"},
            "MODEL.META_ARCHITECTURE is GeneralizedRCNN.*DATASETS.TARGET",
        ),
        ({**FREE, "MODEL__WEIGHTS": ""}, "no labels: set MODEL.WEIGHTS"),
        ({**FREE, "MODEL__MIC__CONSISTENCY__WEIGHT": 0.0}, "there is no loss"),
        ({**FREE, "MODEL__MIC__BURN_IN_STEPS": 5}, "BURN_IN_STEPS is 5"),
        ({**FREE, "MODEL__MIC__PSEUDO_BOXES__ADAPT": "class_shares"}, "'class_shares'.*use 'none'"),
        ({**FREE, "MODEL__MIC__MASK__DOMAINS": "both"}, "MASK.DOMAINS needs source images"),
        ({**FREE, "MODEL__MIC__ALIGNMENT__IMAGE__ENABLED": True}, "ALIGNMENT.IMAGE.ENABLED needs source images"),
        ({**FREE, "MODEL__META_ARCHITECTURE": "GeneralizedRCNN"}, "DATASETS.TRAIN is empty.*use MIC"),
        (
            {"DATASETS__TARGET_LABELLED": ("a",), "MODEL__META_ARCHITECTURE": "GeneralizedRCNN"},
            "GeneralizedRCNN.*DATASETS.TARGET_LABELLED",
        ),
        ({"DATASETS__TRAIN": ("a",), "DATASETS__TARGET": ("b",), "DATASETS__CLASS_NAMES": ("x",)}, "CLASS_NAMES"),
        (
            {
                **BOTH,
                "DATASETS__TARGET_LABELLED": ("b",),
                "MODEL__MIC__ALIGNMENT__INSTANCE__ENABLED": True,
                "MODEL__MIC__ALIGNMENT__INSTANCE__REGIONS": "published",
            },
            "REGIONS is 'published'.*use 'same'",
        ),
        ({**BOTH, **LABELLER, "MODEL__MIC__CONSISTENCY__WEIGHT": 0.0}, "LABELLER.JSON.*only in the masked loss"),
        ({**BOTH, **LABELLER, "MODEL__MIC__CONSISTENCY__TARGETS": "soft"}, "LABELLER.JSON.*use 'hard'"),
        (
            {
                **BOTH,
                **LABELLER,
                "MODEL__MIC__LABELLER__SURE_SCORE": 0.4,
                "MODEL__MIC__PSEUDO_BOXES__SCORE_THRESHOLD": 1.0,
            },
            "SURE_SCORE is 0.4",
        ),
        # these pass the roles and stop at the unknown name
        (FREE, "neither registered"),
        ({**FREE, "DATASETS__TARGET_LABELLED": ("c",), "MODEL__WEIGHTS": ""}, "neither registered"),
        ({**BOTH, **LABELLER}, "neither registered"),
        ({"DATASETS__TRAIN": ("a",), "DATASETS__TARGET": ("b",)}, "neither registered"),
        ({"DATASETS__TRAIN": ("a",), "MODEL__MIC__MASK__DOMAINS": "source"}, "neither registered"),
        ({"DATASETS__TRAIN": ("a",), "MODEL__MIC__CONSISTENCY__WEIGHT": 0.0}, "neither registered"),
        ({"DATASETS__TRAIN": ("a",), "MODEL__META_ARCHITECTURE": "GeneralizedRCNN"}, "neither registered"),
    ],
)
def test_roles_that_cannot_work_are_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        check_datasets(tiny_cfg(**keys))


PIXELS = {**BOTH, "MODEL__MIC__STUDENT": "SemanticSegmentor"}


@pytest.mark.parametrize(
    "keys, expected",
    [
        (BOTH, MASK),
        (FREE, MASK),
        ({"DATASETS__TRAIN": ("a",), "MODEL__MIC__CONSISTENCY__WEIGHT": 0.0}, LABELS),
        ({**BOTH, "MODEL__MIC__CONSISTENCY__WEIGHT": 0.0}, LABELS),
        ({**BOTH, "MODEL__MIC__MASK__RATIO": 0.0}, SELF_TRAINING),
        ({**BOTH, "MODEL__MIC__MASK__PROB": 0.0}, SELF_TRAINING),
        ({**BOTH, "MODEL__MIC__MASK__DOMAINS": "source"}, LABELS),
        ({"DATASETS__TRAIN": ("a",), "MODEL__META_ARCHITECTURE": "GeneralizedRCNN"}, LABELS),
        # label maps alone have a mask and a weight of their own
        ({**PIXELS, "MODEL__MIC__MASK__RATIO": 0.0, "MODEL__MIC__CONSISTENCY__WEIGHT": 0.0}, MASK),
        ({**PIXELS, "MODEL__MIC__SEM_SEG__MASK__RATIO": 0.0}, SELF_TRAINING),
        ({**PIXELS, "MODEL__MIC__SEM_SEG__WEIGHT": 0.0}, LABELS),
        ({**PIXELS, "MODEL__MIC__SEM_SEG__WEIGHT": 0.0, "MODEL__MIC__SEM_SEG__MIX_WEIGHT": 1.0}, SELF_TRAINING),
    ],
)
def test_the_way_of_training_is_known_by_the_config(keys, expected):
    assert way_of_training(tiny_cfg(**keys)) == expected
