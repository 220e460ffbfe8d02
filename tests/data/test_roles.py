"""A model must have the data sets that it learns from."""

import pytest

from helpers.models import tiny_cfg
from mic_det.data.run_sets import check_datasets
from mic_det.errors import ConfigError


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
        # these pass the roles and stop at the unknown name
        ({"DATASETS__TRAIN": ("a",), "DATASETS__TARGET": ("b",)}, "neither registered"),
        ({"DATASETS__TRAIN": ("a",), "MODEL__MIC__MASK__DOMAINS": "source"}, "neither registered"),
        ({"DATASETS__TRAIN": ("a",), "MODEL__MIC__CONSISTENCY__WEIGHT": 0.0}, "neither registered"),
        ({"DATASETS__TRAIN": ("a",), "MODEL__META_ARCHITECTURE": "GeneralizedRCNN"}, "neither registered"),
    ],
)
def test_roles_that_cannot_work_are_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        check_datasets(tiny_cfg(**keys))
