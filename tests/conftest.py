"""A tiny detector and random batches, for tests that need a real model."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

import helpers_data
import helpers_faults
import helpers_resume
from mic_det import add_mic_config


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def storage():
    with EventStorage() as events:
        yield events


def tiny_cfg(**overrides):
    """MIC around an 18-layer Faster R-CNN with few channels; keys with "__" for dots override."""
    cfg = get_cfg()
    add_mic_config(cfg)
    cfg.merge_from_list(
        [
            "MODEL.DEVICE", "cpu",
            "MODEL.META_ARCHITECTURE", "MIC",
            "MODEL.PIXEL_STD", [60.0, 60.0, 60.0],
            "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone",
            "MODEL.BACKBONE.FREEZE_AT", 1,
            "MODEL.RESNETS.DEPTH", 18,
            "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
            "MODEL.RESNETS.NORM", "FrozenBN",
            "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"],
            "MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"],
            "MODEL.FPN.OUT_CHANNELS", 16,
            "MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32], [64], [128]],
            "MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"],
            "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 32,
            "MODEL.RPN.PRE_NMS_TOPK_TRAIN", 60,
            "MODEL.RPN.PRE_NMS_TOPK_TEST", 60,
            "MODEL.RPN.POST_NMS_TOPK_TRAIN", 30,
            "MODEL.RPN.POST_NMS_TOPK_TEST", 30,
            "MODEL.ROI_HEADS.NAME", "StandardROIHeads",
            "MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"],
            "MODEL.ROI_HEADS.NUM_CLASSES", 3,
            "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16,
            "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead",
            "MODEL.ROI_BOX_HEAD.NUM_FC", 2,
            "MODEL.ROI_BOX_HEAD.FC_DIM", 16,
            "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 4,
            "DATASETS.TRAIN", (),
        ]
    )  # fmt: skip
    cfg.merge_from_list([x for k, v in overrides.items() for x in (k.replace("__", "."), v)])
    return cfg


# every detection of an untrained model counts
ALL_BOXES = {"MODEL__MIC__PSEUDO_BOXES__SCORE_THRESHOLD": 0.05}
NO_BOXES = {"MODEL__MIC__PSEUDO_BOXES__SCORE_THRESHOLD": 1.0}

# a single feature map and a box head that begins with the backbone's last stage
C4 = dict(
    MODEL__BACKBONE__NAME="build_resnet_backbone", MODEL__RESNETS__DEPTH=50, MODEL__RESNETS__RES2_OUT_CHANNELS=16,
    MODEL__RESNETS__WIDTH_PER_GROUP=4, MODEL__RESNETS__STEM_OUT_CHANNELS=8, MODEL__RESNETS__OUT_FEATURES=["res4"],
    MODEL__RPN__IN_FEATURES=["res4"], MODEL__ANCHOR_GENERATOR__SIZES=[[16, 32, 64]],
    MODEL__ROI_HEADS__NAME="Res5ROIHeads", MODEL__ROI_HEADS__IN_FEATURES=["res4"],
)  # fmt: skip

# all parts of an alignment, small
ALIGNMENT = {
    "MODEL__MIC__ALIGNMENT__IMAGE__ENABLED": True,
    "MODEL__MIC__ALIGNMENT__IMAGE__CHANNELS": 8,
    "MODEL__MIC__ALIGNMENT__INSTANCE__ENABLED": True,
    "MODEL__MIC__ALIGNMENT__INSTANCE__FC_DIM": 8,
    "MODEL__MIC__ALIGNMENT__AGREEMENT__ENABLED": True,
}


def random_image(size=(64, 96), seed=0):
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def some_boxes(size=(64, 96), classes=(0, 2)):
    boxes = torch.tensor([[4.0, 6.0, 40.0, 50.0], [50.0, 20.0, 90.0, 60.0], [10.0, 2.0, 30.0, 20.0]])[: len(classes)]
    return Instances(size, gt_boxes=Boxes(boxes), gt_classes=torch.tensor(classes, dtype=torch.int64))


def source_input(seed=0, size=(64, 96), classes=(0, 2)):
    return {"image": random_image(size, seed), "instances": some_boxes(size, classes), "domain": "source"}


def target_input(seed=1, size=(64, 96)):
    return {"image": random_image(size, seed), "domain": "target"}


@pytest.fixture(scope="session")
def scene_template(tmp_path_factory):
    root = tmp_path_factory.mktemp("scene")
    helpers_faults.write_scene(root)
    return root


@pytest.fixture
def scene(scene_template, tmp_path):
    """A folder with the two small data sets that the fault tests damage."""
    return helpers_faults.copy_scene(scene_template, tmp_path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with two domains of images of mixed shapes, whose sets a module's tests register together."""
    root = tmp_path_factory.mktemp("data")
    helpers_resume.write_mixed_domains(root)
    with helpers_data.forget_registered_sets():
        yield root
