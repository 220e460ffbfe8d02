"""The two programs that write labeller files: with a detector of torchvision, and from true boxes with errors."""

import argparse
import json

import numpy as np
import pytest
import torch
import torchvision

from helpers.data import CLASSES, HEIGHT, WIDTH, declared, forget_registered_sets, load, tiny_config, write_two_domains
from mic_det.cli import label_with, noisy_labels
from mic_det.data.labeller import LABELLER
from mic_det.data.loader import build_mic_train_loader
from mic_det.errors import CheckpointError, ConfigError, DataError
from mic_det.experiments.label_noise import LEVELS, Noise, noisy_results

pytestmark = pytest.mark.slow
MODEL = "ssdlite320_mobilenet_v3_large"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labellers")
    write_two_domains(folder)
    torch.manual_seed(0)
    model = detector()
    with torch.no_grad():  # else all scores are 0.25
        for p in model.head.parameters():
            p += 0.1 * torch.randn(p.shape)
    torch.save(model.state_dict(), folder / "weights.pth")
    return folder


def detector():
    return torchvision.models.get_model(MODEL, weights=None, weights_backbone=None, num_classes=len(CLASSES) + 1)


def arguments(root, output, **changes):
    keys = dict(
        model=MODEL, weights=str(root / "weights.pth"), images=str(root / "target" / "images"), output=str(output),
        classes=list(CLASSES), confidence_threshold=0.3, device="cpu", trust_checkpoint=False, overwrite=False,
    )  # fmt: skip
    return argparse.Namespace(**{**keys, **changes})


def test_a_torchvision_detector_writes_what_a_training_reads(root, tmp_path):
    label_with.main(arguments(root, tmp_path))
    written = json.loads((tmp_path / "labels.json").read_text())
    assert [c["name"] for c in written["categories"]] == list(CLASSES)
    model = detector()
    model.load_state_dict(torch.load(root / "weights.pth", weights_only=True))
    expected = {}
    for file in sorted((root / "target" / "images").iterdir()):
        pixels = torchvision.io.read_image(str(file)).float() / 255
        with torch.no_grad():
            found = model.eval()([pixels])[0]
        keep = found["scores"] >= 0.3
        expected[file.name] = {k: v[keep] for k, v in found.items()}
    names = {x["id"]: x["file_name"] for x in written["images"]}
    assert set(names.values()) == set(expected) and len(written["annotations"]) > 20
    for name, found in expected.items():
        own = [a for a in written["annotations"] if names[a["image_id"]] == name]
        assert [a["category_id"] for a in own] == found["labels"].tolist()
        boxes = np.array([a["bbox"] for a in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        assert np.allclose(boxes, found["boxes"].numpy(), atol=2e-3)
        assert np.allclose([a["score"] for a in own], found["scores"].numpy(), atol=1e-5)
    with forget_registered_sets():
        keys = {"MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": ["target_train"]}
        keys["MODEL__MIC__LABELLER__JSON"] = str(tmp_path / "labels.json")
        # the folder has images that are in no training set: those of validation
        names = {"folder": {"IMAGES": str(root / "target" / "images")}}
        keys |= {"DATASETS__TARGET": ["folder"], "DATASETS__CUSTOM": {**declared(root), **names}}
        cfg = load(tmp_path, tiny_config(root, tmp_path / "out", **keys))
        target = next(d for d in build_mic_train_loader(cfg).domains if d["name"] == "target")["dicts"]
        assert sum(len(x[LABELLER]) for x in target) > 20


@pytest.mark.parametrize(
    "changes, error, parts",
    [
        ({"model": "resnet18"}, ConfigError, ["resnet18", "fasterrcnn_resnet50_fpn"]),
        ({"model": "keypointrcnn_resnet50_fpn"}, ConfigError, ["other classes"]),
        ({"classes": ["red"]}, CheckpointError, ["with 1 classes", "--classes"]),
        ({"weights": "/nowhere.pth"}, CheckpointError, ["/nowhere.pth"]),
        ({"images": "EMPTY"}, DataError, ["no images"]),
    ],
)
def test_what_cannot_work_is_refused(root, tmp_path, changes, error, parts):
    (tmp_path / "EMPTY").mkdir()
    changes = {k: str(tmp_path / v) if v == "EMPTY" else v for k, v in changes.items()}
    with pytest.raises(error) as caught:
        label_with.main(arguments(root, tmp_path / "out", **changes))
    assert all(p in str(caught.value) for p in parts), caught.value


def images(count=400, boxes=5):
    rng = np.random.default_rng(5)
    sides = rng.uniform(10, 30, (count, boxes, 2))
    corners = rng.uniform(0, 60, (count, boxes, 2))
    classes = rng.integers(1, 4, (count, boxes))
    return [
        {"id": i, "width": 100, "height": 100,
         "boxes": [((*corners[i, k], *sides[i, k]), int(classes[i, k])) for k in range(boxes)]}
        for i in range(count)
    ]  # fmt: skip


def test_without_errors_the_file_is_the_truth():
    truth = images(20)
    results = noisy_results(truth, Noise())
    assert [(x["image_id"], x["category_id"]) for x in results] == [(x["id"], c) for x in truth for _, c in x["boxes"]]
    assert np.allclose([x["bbox"] for x in results], [b for x in truth for b, _ in x["boxes"]], atol=0.006)
    assert noisy_labels.average_precision(truth, [1, 2, 3], results) == pytest.approx(100)


def test_errors_have_the_size_that_is_asked_for():
    truth = images()
    total = sum(len(x["boxes"]) for x in truth)
    assert len(noisy_results(truth, Noise(misses=0.3), 1)) / total == pytest.approx(0.7, abs=0.03)
    more = noisy_results(truth, Noise(false_boxes=0.5), 1)
    assert len(more) / total == pytest.approx(1.5, abs=0.04)
    moved = np.array([x["bbox"] for x in noisy_results(truth, Noise(jitter=0.05), 1)])
    true = np.array([b for x in truth for b, _ in x["boxes"]])
    centre = (moved[:, :2] + moved[:, 2:] / 2 - true[:, :2] - true[:, 2:] / 2) / true[:, 2:]
    assert centre.std() == pytest.approx(0.05, abs=0.005)
    assert np.log(moved[:, 2:] / true[:, 2:]).std() == pytest.approx(0.05, abs=0.005)
    assert (
        noisy_results(truth, LEVELS[2], 1) == noisy_results(truth, LEVELS[2], 1) != noisy_results(truth, LEVELS[2], 2)
    )


def test_boxes_stay_inside_and_each_level_is_worse(root, tmp_path, capsys):
    annotations = str(root / "target" / "train.json")
    args = argparse.Namespace(
        annotations=annotations, output=str(tmp_path / "noisy"), seed=1, misses=None, false_boxes=None, jitter=None,
        overwrite=False,
    )  # fmt: skip
    noisy_labels.main(args)
    rows = [x.split("|")[1:-1] for x in capsys.readouterr().out.splitlines()[2:]]
    assert [r[0].strip() for r in rows] == ["level_1.json", "level_2.json", "level_3.json"]
    for name in ("level_1.json", "level_3.json"):
        boxes = np.array([x["bbox"] for x in json.loads((tmp_path / "noisy" / name).read_text())])
        assert (boxes >= 0).all() and (boxes[:, 0] + boxes[:, 2] <= WIDTH).all()
        assert (boxes[:, 1] + boxes[:, 3] <= HEIGHT).all()
    noise = [noisy_results(images(), level) for level in LEVELS.values()]
    scores = [noisy_labels.average_precision(images(), [1, 2, 3], x) for x in noise]
    assert 100 > scores[0] > scores[1] > scores[2] > 0
