"""Exported files against the detector itself, called as Detectron2 calls it, for every kind of student."""

import json

import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_model
from torch import nn

from helpers.models import C4, tiny_cfg
from mic_det import CheckpointError, ConfigError
from mic_det.deploy.compare import compare
from mic_det.deploy.files import TorchScriptPredictor, describe, write_onnx, write_torchscript
from mic_det.deploy.onnx_predictor import OnnxPredictor
from mic_det.deploy.trace import Traceable, noise, quiet, threshold_facts
from mic_det.inference.detections import Detections

pytestmark = pytest.mark.slow
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

LEAST = 0.02  # score that random weights reach
DENSE = {
    "MODEL__BACKBONE__NAME": "build_retinanet_resnet_fpn_backbone", "MODEL__FPN__IN_FEATURES": ["res3", "res4", "res5"],
}  # fmt: skip
PIXELS = {
    "MODEL__SEM_SEG_HEAD__NAME": "SemSegFPNHead", "MODEL__SEM_SEG_HEAD__IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 4, "MODEL__SEM_SEG_HEAD__CONVS_DIM": 32,
}  # fmt: skip
STUDENTS = {
    "FPN": {"MODEL__META_ARCHITECTURE": "GeneralizedRCNN"},
    "C4": {"MODEL__META_ARCHITECTURE": "GeneralizedRCNN", **C4},
    "Cascade": {"MODEL__META_ARCHITECTURE": "GeneralizedRCNN", "MODEL__ROI_HEADS__NAME": "CascadeROIHeads",
                "MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True},
    "RetinaNet": {"MODEL__META_ARCHITECTURE": "RetinaNet", **DENSE, "MODEL__RETINANET__NUM_CLASSES": 3,
                  "MODEL__RETINANET__NUM_CONVS": 1},
    "FCOS": {"MODEL__META_ARCHITECTURE": "FCOS", **DENSE, "MODEL__FCOS__NUM_CLASSES": 3, "MODEL__FCOS__NUM_CONVS": 1,
             "MODEL__FCOS__NORM": "", "MODEL__FCOS__IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"]},
    "pixels": {"MODEL__META_ARCHITECTURE": "SemanticSegmentor", **PIXELS},
    "both": {"MODEL__META_ARCHITECTURE": "BoxPanopticFPN", **PIXELS, "MODEL__MASK_ON": True,
             "MODEL__ROI_MASK_HEAD__NAME": "MaskRCNNConvUpsampleHead", "MODEL__ROI_MASK_HEAD__NUM_CONV": 1,
             "MODEL__ROI_MASK_HEAD__CONV_DIM": 8},
}  # fmt: skip
SIZES = [(90, 150), (150, 90), (64, 64), (33, 131), (300, 210)]  # of images before they are resized


def config(student="FPN", **keys):
    least = {f"MODEL__{node}__SCORE_THRESH_TEST": LEAST for node in ("ROI_HEADS", "RETINANET", "FCOS")}
    size = {"INPUT__MIN_SIZE_TEST": 72, "INPUT__MAX_SIZE_TEST": 120}
    return tiny_cfg(**{**least, **size, **STUDENTS[student], **keys})


def detector(cfg):
    """With scores that differ from box to box: new weights give all the same, whose order is anyone's guess."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if any(x in name for x in ("cls_score", "cls_logits", "ctrness", "sem_seg_head.predictor")):
                p.add_(torch.randn(p.shape) * 0.4)
    return model


def answer(cfg, model, rgb):
    """As DefaultPredictor: Detectron2's resizing, then the model's own forward."""
    image = rgb if cfg.INPUT.FORMAT == "RGB" else rgb[:, :, ::-1]
    resize = ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST).get_transform(image)
    tensor = torch.as_tensor(resize.apply_image(image).astype("float32").transpose(2, 0, 1))
    with torch.no_grad():
        found = model([{"image": tensor, "height": rgb.shape[0], "width": rgb.shape[1]}])[0]
    result = {}
    if "instances" in found:
        result["instances"] = Detections.of_instances(found["instances"])
    if "sem_seg" in found:
        result["label_map"] = found["sem_seg"].argmax(dim=0).numpy()
    return result


def images(sizes=SIZES):
    return [noise(*size, seed=i).numpy() for i, size in enumerate(sizes)]


@pytest.mark.parametrize("student", STUDENTS)
def test_onnx_and_torchscript_answer_as_the_detector_at_all_sizes(student, tmp_path):
    cfg = config(student)
    model = detector(cfg)
    write_onnx(Traceable.of(cfg, model), describe(cfg, None, None, 17), tmp_path / "a.onnx")
    write_torchscript(Traceable.of(cfg, model), describe(cfg, None, None), tmp_path / "a.ts")
    predictors = OnnxPredictor(tmp_path / "a.onnx", LEAST), TorchScriptPredictor(tmp_path / "a.ts", LEAST)
    count, labels = 0, set()
    for rgb in images():
        expected = answer(cfg, model, rgb)
        for predictor in predictors:
            result = compare(expected, predictor(rgb))
            assert result.equal, f"{rgb.shape}: {result}"
        count += len(expected["instances"].scores) if "instances" in expected else 0
        labels |= set(expected["label_map"].flatten()) if "label_map" in expected else set()
    assert count > 50 or student == "pixels", "something to compare"
    assert len(labels) > 1 or "label_map" not in expected


@pytest.mark.parametrize("student", ["FPN", "C4", "RetinaNet"])
def test_an_image_without_objects(student, tmp_path):
    keys = {f"MODEL__{node}__SCORE_THRESH_TEST": 0.999 for node in ("ROI_HEADS", "RETINANET")}
    cfg = config(student, **keys)
    write_onnx(Traceable.of(cfg, detector(cfg)), describe(cfg, None, None, 17), tmp_path / "a.onnx")
    found = OnnxPredictor(tmp_path / "a.onnx", 0.999)(images()[0])["instances"]
    assert found.boxes.shape == (0, 4) and found.scores.shape == found.classes.shape == (0,)


@pytest.mark.parametrize("opset", [16, 20])
def test_the_file_says_what_it_is(opset, tmp_path):
    cfg = config("both", MODEL__ROI_HEADS__NMS_THRESH_TEST=0.45, INPUT__FORMAT="RGB")
    write_onnx(
        Traceable.of(cfg, detector(cfg)), describe(cfg, ["car", "bus", "töff"], None, opset), tmp_path / "a.onnx"
    )
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model)
    assert [x.version for x in model.opset_import if not x.domain] == [opset]
    told = json.loads({x.key: x.value for x in model.metadata_props}["mic_det"])
    assert told["opset"] == opset and told["predicts"] == ["boxes", "pixels"]
    assert [name for _, name in told["classes"]] == ["car", "bus", "töff"] and len(told["label_map_classes"]) == 4
    assert told["score_threshold"] == LEAST and told["nms_threshold"] == 0.45
    assert told["resize"] == {"shorter": 72, "longer": 120} and told["fixed_size"] is None
    assert [x.name for x in model.graph.output] == ["boxes", "scores", "classes", "label_map"]


def test_a_fixed_size_takes_no_other(tmp_path):
    cfg = config()
    model = detector(cfg)
    size = (72, 120)
    write_onnx(Traceable.of(cfg, model, size), describe(cfg, None, size, 17), tmp_path / "a.onnx", size)
    predictor = OnnxPredictor(tmp_path / "a.onnx", LEAST)
    assert predictor.session.get_inputs()[0].shape == [72, 120, 3]
    rgb = images([(90, 150)])[0]
    assert compare(answer(cfg, model, rgb), predictor(rgb)).equal
    with pytest.raises(Exception, match="only for 120 x 72"):
        predictor(images([(150, 90)])[0])


def test_the_least_score_is_that_of_the_file(tmp_path):
    cfg = config("RetinaNet")
    assert threshold_facts(cfg) == (LEAST, "MODEL.RETINANET.SCORE_THRESH_TEST", 0.5)
    write_onnx(Traceable.of(cfg, detector(cfg)), describe(cfg, None, None, 17), tmp_path / "a.onnx")
    with pytest.raises(ConfigError, match=r"MODEL\.RETINANET\.SCORE_THRESH_TEST 0\.01"):
        OnnxPredictor(tmp_path / "a.onnx", 0.01)
    scores = OnnxPredictor(tmp_path / "a.onnx", LEAST)(images()[0])["instances"].scores
    middle = float(sorted(scores)[len(scores) // 2])
    some = OnnxPredictor(tmp_path / "a.onnx", middle)(images()[0])["instances"].scores
    assert list(scores[scores >= middle]) == list(some) and 0 < len(some) < len(scores)


# ------------------------------------------------------------------------------------- refusals


class NotInOnnx(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


class Fails(nn.Module):
    def forward(self, x):
        raise RuntimeError("no such kernel")


class HoldsTheSize(nn.Module):
    """Right for the size that is traced, wrong for others."""

    def forward(self, x):
        return x + torch.arange(int(x.shape[-1])) * 0.0


class Draws(nn.Module):
    def forward(self, x):
        return x + torch.rand(()) * 5


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (NotInOnnx, r"the layer backbone\.fpn_output3\.norm \(NotInOnnx\) cannot be exported to ONNX: .*bessel_j0"),
        (Fails, r"the layer backbone\.fpn_output3\.norm \(Fails\) cannot be exported to ONNX: no such kernel"),
        (HoldsTheSize, "ONNX Runtime cannot run the exported model on 224 x 160 pixels"),
        (Draws, "ONNX Runtime differs from PyTorch .* detections only in PyTorch"),
    ],
)
def test_what_cannot_be_exported_is_refused(layer, message, tmp_path):
    cfg = config()
    model = detector(cfg)
    model.backbone.fpn_output3.norm = layer()
    with pytest.raises(ConfigError, match=message):
        write_onnx(Traceable.of(cfg, model), describe(cfg, None, None, 17), tmp_path / "a.onnx")


def test_other_files_are_refused(tmp_path):
    file = tmp_path / "other.onnx"
    with pytest.raises(CheckpointError, match="is missing"):
        OnnxPredictor(file)
    file.write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="cannot be used"):
        OnnxPredictor(file)
    with quiet():
        torch.onnx.export(nn.ReLU(), torch.zeros(2), str(file), dynamo=False)
    with pytest.raises(CheckpointError, match="was not written by `mic-det export`"):
        OnnxPredictor(file)
