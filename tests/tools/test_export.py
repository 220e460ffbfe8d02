"""tools/export.py: what it writes is loaded by plain Detectron2, in a process that never imports mic_det."""

import inspect
import json
import subprocess
import sys

import pytest
import torch
import yaml
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from helpers.data import forget_registered_sets, load, refusal_here, run_tool_here, tiny_config, write_config
from helpers.data import write_two_domains as write_domains
from mic_det.checkpoint.checkpointer import MICCheckpointer

pytestmark = pytest.mark.slow

MIC = {"MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": ["target_train"],
       "MODEL__ROI_HEADS__SCORE_THRESH_TEST": 0.0}  # fmt: skip
HEAD = {"NAME": "SemSegFPNHead", "IN_FEATURES": ["p2", "p3", "p4", "p5"], "NUM_CLASSES": 4, "CONVS_DIM": 32}
TORCHVISION = {"MODEL__BACKBONE__NAME": "build_torchvision_fpn_backbone"}
STUDENTS = {
    "boxes": {},
    "pixels": {"MODEL__MIC__STUDENT": "SemanticSegmentor", "MODEL__SEM_SEG_HEAD": HEAD},
    "both": {"MODEL__MIC__STUDENT": "BoxPanopticFPN", "MODEL__SEM_SEG_HEAD": HEAD, "MODEL__MASK_ON": True,
             "MODEL__ROI_MASK_HEAD": {"NAME": "MaskRCNNConvUpsampleHead", "NUM_CONV": 1, "CONV_DIM": 8}},
    "resnet18": {**TORCHVISION, "MODEL__TORCHVISION": {"NAME": "resnet18"}},
    "resnet50": {**TORCHVISION, "MODEL__RESNETS__STRIDE_IN_1X1": True,  # as is Detectron2's default
                 "MODEL__TORCHVISION": {"NAME": "resnet50", "NORM": "BN"}},
    "mobilenet": {**TORCHVISION, "MODEL__TORCHVISION": {"NAME": "mobilenet_v2"}},
}  # fmt: skip


def image():
    return torch.randint(0, 255, (3, 64, 96), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


def disturb(model, seed):
    """Other weights and statistics than a new model's."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.state_dict().items():
            if p.dtype == torch.float32 and "pixel" not in name:
                noise = 0.02 * torch.randn(p.shape, generator=generator)
                p += noise.abs() if "running_var" in name else noise


def answers(model, image):
    """Detections in float32 under "found:", and what they are picked from in float64 (it is free of ties).

    Runs in plain Detectron2's process as well, so its text uses nothing of this file.
    """
    import torch
    from detectron2.structures import Boxes

    tensors = {}
    with torch.no_grad():
        found = model.eval()([{"image": image, "height": 64, "width": 96}])[0]
        if "instances" in found:
            x = found["instances"]
            assert len(x) > 5, "something to compare"
            tensors.update({"found:boxes": x.pred_boxes.tensor, "found:classes": x.pred_classes})
        model = model.double()
        images = model.preprocess_image([{"image": image}]) if hasattr(model, "preprocess_image") else None
        x = images.tensor if images else ((image - model.pixel_mean) / model.pixel_std)[None]
        features = model.backbone(x)
        tensors.update(features)
        if "instances" in found:
            levels = [features[f] for f in model.proposal_generator.in_features]
            for name, level in zip(("objectness", "deltas"), model.proposal_generator.rpn_head(levels)):
                tensors.update({f"{name}{i}": v for i, v in enumerate(level)})
            heads, boxes = model.roi_heads, [Boxes([[5, 8, 40, 50], [0, 0, 90, 60.5], [30, 20, 38, 33]])]
            pooled = heads.box_pooler([features[f] for f in heads.box_in_features], boxes)
            tensors["scores"], tensors["shifts"] = heads.box_predictor(heads.box_head(pooled))
            if heads.mask_on:
                pooled = heads.mask_pooler([features[f] for f in heads.mask_in_features], boxes)
                tensors["masks"] = heads.mask_head.layers(pooled)
        if "sem_seg" in found:
            tensors["sem_seg"] = model.sem_seg_head.layers(features)
    return tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """For each kind of student a config, a checkpoint whose teacher and student differ, and their answers."""
    root = tmp_path_factory.mktemp("export")
    write_domains(root)
    for name, keys in STUDENTS.items():
        config = tiny_config(root, **{**MIC, **keys})
        write_config(root / f"{name}.yaml", config)
        with forget_registered_sets():
            torch.manual_seed(0)
            model = build_model(load(root, config))
        disturb(model.student, 1), disturb(model.teacher, 2)
        MICCheckpointer(model, str(root)).save(name)
        both = {part: answers(getattr(model, part), image()) for part in ("teacher", "student")}
        torch.save(both, root / f"{name}.answers")
    return root


def call(folder, name, output, *more):
    more, opts = more[: len(more) // 2 * 2], ["MODEL.WEIGHTS", folder / f"{name}.pth"]
    return ["--config-file", folder / f"{name}.yaml", "--output", output, *more, *opts]


# what a user of plain Detectron2 writes
PLAIN = (
    inspect.getsource(answers)
    + """
import json, sys, torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model
image = torch.load(sys.argv[1], weights_only=True)
for file in sys.argv[2:]:
    cfg = get_cfg()
    cfg.merge_from_file(file)
    model = build_model(cfg)
    if cfg.MODEL.WEIGHTS:
        DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    else:
        import safetensors.torch
        weights = safetensors.torch.load_file(file.replace(".yaml", ".safetensors"))
        model.load_state_dict(weights, strict=False)
    torch.save(answers(model, image), file + ".answers")
print(json.dumps([m for m in sys.modules if m.split(".")[0] == "mic_det"]))
"""
)

EXPORTS = {  # name of the output: (kind of student, part, files that must be there beside it)
    "boxes.pth": ("boxes", "teacher", ["boxes.yaml"]),
    "of_student.pth": ("boxes", "student", ["of_student.yaml"]),
    "safe.safetensors": ("boxes", "teacher", ["safe.yaml"]),
    "pixels.pth": ("pixels", "teacher", ["pixels.yaml"]),
    "both.pth": ("both", "teacher", ["both.yaml", "both_sem_seg.yaml"]),
    "resnet18.pth": ("resnet18", "teacher", ["resnet18.yaml"]),
    "resnet50.pth": ("resnet50", "teacher", ["resnet50.yaml"]),
}


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory):
    """All exports, read by one process of plain Detectron2."""
    output = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        for name, (kind, part, _) in EXPORTS.items():
            run_tool_here("export.py", *call(folder, kind, output / name, "--model", part), monkeypatch=patch)
    torch.save(image(), output / "image")
    files = [output / config for _, _, configs in EXPORTS.values() for config in configs]
    command = [sys.executable, "-W", "ignore", "-c", PLAIN, output / "image", *files]
    done = subprocess.run(list(map(str, command)), cwd=output, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [], "mic_det was imported"
    return output


@pytest.mark.parametrize("name", EXPORTS)
def test_plain_detectron2_answers_as_the_exported_model_does(folder, exported, name):
    kind, part, configs = EXPORTS[name]
    expected = torch.load(folder / f"{kind}.answers", weights_only=True)
    found = {}
    for config in configs:
        found.update(torch.load(exported / f"{config}.answers", weights_only=True))
    other = expected["student" if part == "teacher" else "teacher"]
    assert found.keys() == expected[part].keys()
    for key in (k for k in found if not k.startswith("found:")):
        assert torch.allclose(found[key], expected[part][key], rtol=1e-6, atol=1e-9), key
        assert not torch.allclose(found[key], other[key], rtol=1e-3), "teacher and student differ"
    if "found:boxes" in found:  # rounding may order near scores of random weights otherwise, so not one by one
        near = (expected[part]["found:boxes"][:, None] - found["found:boxes"]).abs().amax(-1) < 0.05
        same = near & (expected[part]["found:classes"][:, None] == found["found:classes"])
        assert same.any(1).float().mean() > 0.9 and same.any(0).float().mean() > 0.9


@pytest.mark.parametrize("name", EXPORTS)
def test_the_config_has_plain_detectron2s_keys_alone(exported, name):
    text = "".join((exported / config).read_text() for config in EXPORTS[name][2])
    assert "MIC" not in text and "TORCHVISION" not in text and "TARGET" not in text and "torchvision" not in text
    cfg = yaml.safe_load((exported / EXPORTS[name][2][0]).read_text())
    assert cfg["MODEL"].keys() == get_cfg().MODEL.keys() and cfg["SOLVER"].keys() == get_cfg().SOLVER.keys()


def test_the_weights_are_one_models_alone(folder, exported):
    state = torch.load(exported / "boxes.pth", weights_only=True)
    both = torch.load(folder / "boxes.pth", weights_only=True)["model"]
    assert state.keys() == {"model"}
    assert {f"teacher.{k}" for k in state["model"]} == {k for k in both if k.startswith("teacher.")}
    assert all(torch.equal(v, both[f"teacher.{k}"]) for k, v in state["model"].items())


def test_a_backbone_that_plain_detectron2_lacks_is_refused_and_nothing_written(folder, tmp_path, monkeypatch):
    message = refusal_here("export.py", *call(folder, "mobilenet", tmp_path / "x.pth"), monkeypatch=monkeypatch)
    assert "mobilenet_v2" in message and "resnet50" in message and "tools/predict.py" in message
    assert list(tmp_path.iterdir()) == []


def test_other_suffixes_are_refused(folder, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as caught:
        run_tool_here("export.py", *call(folder, "boxes", tmp_path / "x.npz"), monkeypatch=monkeypatch)
    assert caught.value.code == 2 and ".safetensors" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_named(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    message = refusal_here("export.py", *call(folder, "boxes", tmp_path / "file" / "x.pth"), monkeypatch=monkeypatch)
    assert str(tmp_path / "file" / "x.pth") in message
