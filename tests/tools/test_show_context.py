"""tools/show_context.py: what is hidden, and that its numbers are those of an ordinary evaluation."""

import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from PIL import Image

from helpers.data import (
    CLASSES,
    HEIGHT,
    WIDTH,
    forget_registered_sets,
    load,
    refusal_here,
    run_tool_here,
    tiny_config,
    write_coco,
    write_config,
    write_two_domains,
)
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.data.mapper import DomainMapper
from mic_det.engine.trainer import MICTrainer
from mic_det.evaluation.coco import DetectionEvaluator
from mic_det.evaluation.hidden_pixels import HiddenPatches

pytestmark = pytest.mark.slow

KEYS = {
    "MODEL__META_ARCHITECTURE": "MIC",
    "MODEL__MIC__STUDENT": "BoxPanopticFPN",
    "MODEL__SEM_SEG_HEAD": {"NUM_CLASSES": 3, "CONVS_DIM": 8, "NORM": ""},
    "DATASETS__TARGET": ["target_train"],
    "DATASETS__TEST": ["own"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two untrained models; what the first finds, in part, is declared to be the truth, and all pixels are road."""
    root = tmp_path_factory.mktemp("context")
    write_two_domains(root)
    config = tiny_config(root, **KEYS)
    entry = {
        "IMAGES": str(root / "target/images"),
        "SEM_SEG": str(root / "maps"),
        "SEM_SEG_CLASSES": ["road", "sky", "car"],
    }
    config["DATASETS"]["CUSTOM"]["own"] = {"JSON": str(root / "own.json"), **entry}
    (root / "maps").mkdir()
    with forget_registered_sets():
        cfg = load(root, config)
        images, truth = [], []
        for seed in (0, 1):
            torch.manual_seed(seed)
            model = build_model(cfg).eval()
            MICCheckpointer(model, str(root)).save(f"model_{seed}")
            mapper = DomainMapper(cfg, False)
            for i in range(4 if seed == 0 else 0):
                Image.new("L", (WIDTH, HEIGHT), 0).save(root / f"maps/val_{i}.png")
                file = str(root / f"target/images/val_{i}.png")
                mapped = mapper({"file_name": file, "image_id": i, "height": HEIGHT, "width": WIDTH})
                with torch.no_grad():
                    found = model([mapped])[0]["instances"]
                images.append((f"val_{i}.png", WIDTH, HEIGHT))
                for box, c in list(zip(found.pred_boxes.tensor.tolist(), found.pred_classes.tolist()))[::2]:
                    truth.append((i, c, (box[0], box[1], box[2] - box[0], box[3] - box[1])))
    write_coco(root / "own.json", images, truth, classes=CLASSES)
    write_config(root / "mic.yaml", config)
    write_config(root / "unlabelled.yaml", {**config, "DATASETS": {**config["DATASETS"], "TEST": ["target_train"]}})
    return root


@pytest.fixture(scope="module")
def shown(folder):
    patch = pytest.MonkeyPatch()
    args = ["--config-file", folder / "mic.yaml", "--output", folder / "out", "--images", 2, "--objects"]
    args += ["--weights", f"one={folder}/model_0.pth", f"two={folder}/model_1.pth", "--ratios", 0, 0.5, 0.9]
    run_tool_here("show_context.py", *args, "MODEL.MIC.MASK.BLOCK_SIZE", 8, monkeypatch=patch)
    patch.undo()
    return folder / "out"


def test_numbers_without_hidden_patches_are_those_of_evaluation(folder, shown):
    content = json.loads((shown / "curve.json").read_text())
    assert content["ratios"] == [0, 0.5, 0.9] and content["block_size"] == 8 and content["dataset"] == "own"
    with forget_registered_sets():
        cfg = load(folder, {"_BASE_": str(folder / "mic.yaml")})
        for label, seed in (("one", 0), ("two", 1)):
            model = MICTrainer.build_model(cfg).eval()
            MICCheckpointer(model).load(str(folder / f"model_{seed}.pth"))
            loader = MICTrainer.build_test_loader(cfg, "own")
            expected = inference_on_dataset(model, loader, DetectionEvaluator("own"))["bbox"]
            found = content["checkpoints"][label]
            assert found["weights"].endswith(f"model_{seed}.pth")
            assert found["AP50"][0] == pytest.approx(expected["AP50"])
            assert len(found["AP50"]) == len(found["mIoU"]) == len(found["IoU-road"]) == 3
    one = content["checkpoints"]["one"]["AP50"]
    assert one[0] > 20 and one[2] < one[0], "the truth is what this model found, when nothing was hidden"


def test_pictures_of_boxes_and_pixels(shown):
    for metric in ("AP50", "mIoU"):
        assert cv2.imread(str(shown / f"curve_{metric}.png")).shape[1] > 800
    sheet = cv2.imread(str(shown / "contact_sheet.png"))
    cell = round(HEIGHT * 800 / WIDTH) + 36
    # 2 images x 2 checkpoints x (boxes, pixels); 3 ratios, objects alone, context alone, and the truth
    assert sheet.shape == (8 * cell, 6 * 800, 3)
    road = np.array([128, 64, 128])  # Cityscapes' colour, the same in RGB and BGR
    true_labels = sheet[cell + 36 : 2 * cell, 5 * 800 :]
    assert (np.abs(true_labels.astype(int) - road) <= 2).all()


def test_objects_and_context_alone(folder, shown):
    """Beside the whole image, in numbers and in pictures; outside the true boxes the mean colour is all there is."""
    content = json.loads((shown / "curve.json").read_text())["checkpoints"]
    for found in content.values():
        assert found["whole image"]["AP50"] == pytest.approx(found["AP50"][0])
        assert set(found["whole image"]) == set(found["objects alone"]) == set(found["context alone"])
    assert content["one"]["whole image"]["AP50"] > content["one"]["context alone"]["AP50"]
    assert cv2.imread(str(shown / "objects_AP50.png")).shape[1] > 800
    sheet, cell = cv2.imread(str(shown / "contact_sheet.png")).astype(int), round(HEIGHT * 800 / WIDTH) + 36
    objects, context = (sheet[36:cell, c * 800 : (c + 1) * 800] for c in (3, 4))
    annotations = json.loads((folder / "own.json").read_text())["annotations"]
    covered = np.zeros((cell - 36, 800), bool)
    for x, y, w, h in (a["bbox"] for a in annotations if a["image_id"] == 1):
        scale = 800 / WIDTH
        covered[int(y * scale) : round((y + h) * scale) + 1, int(x * scale) : round((x + w) * scale) + 1] = True
    mean = lambda picture: (np.abs(picture - 60).max(axis=2) <= 2).mean()  # noqa: E731  PIXEL_MEAN is 60
    assert 0.03 < covered.mean() < 0.97
    # what is drawn over it, enlarged pixels and their rims aside
    assert abs(mean(objects) - (1 - covered.mean())) < 0.2 and abs(mean(context) - covered.mean()) < 0.2


class Seen(torch.nn.Module):
    """Keeps what a detector would have seen."""

    def __init__(self):
        super().__init__()
        self.register_buffer("pixel_mean", torch.tensor([10.0, 20.0, 30.0]).view(3, 1, 1))

    def forward(self, batched_inputs):
        return [x["image"] for x in batched_inputs]


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.7])
def test_hidden_patches_have_the_mean_colour_and_grow_with_the_ratio(ratio):
    image = torch.randint(100, 200, (3, 128, 256), dtype=torch.uint8)
    x = {"image": image, "image_id": 7}
    see = lambda r, image_id=7: HiddenPatches(Seen(), 16, r)([{**x, "image_id": image_id}])[0]  # noqa: E731
    seen, more = see(ratio), see(ratio + 0.2)
    hidden, hidden_more = ((v == torch.tensor([10.0, 20.0, 30.0]).view(3, 1, 1)).all(dim=0) for v in (seen, more))
    assert torch.equal(seen[:, ~hidden], image.float()[:, ~hidden])
    assert abs(hidden.float().mean() - ratio) < 0.13  # 128 patches: three standard deviations
    assert (hidden_more >= hidden).all(), "what is hidden stays hidden"
    assert torch.equal(seen, see(ratio)) and (ratio == 0 or not torch.equal(seen, see(ratio, image_id=8)))


@pytest.mark.parametrize(
    "config, weights, parts",
    [
        ("mic.yaml", "one=gone.pth", ["gone.pth"]),
        ("unlabelled.yaml", "one=model_0.pth", ["target_train", "label maps"]),
    ],
)
def test_wrong_calls_end_with_one_error_line(folder, monkeypatch, config, weights, parts):
    monkeypatch.chdir(folder)
    args = ["--config-file", folder / config, "--output", folder / "x", "--weights", weights]
    message = refusal_here("show_context.py", *args, monkeypatch=monkeypatch)
    assert all(p in message for p in parts), message


def test_objects_need_boxes(folder, monkeypatch):
    args = ["--config-file", folder / "mic.yaml", "--output", folder / "x", "--weights", "one=model_0.pth", "--objects"]
    more = ["MODEL.MIC.STUDENT", "SemanticSegmentor"]
    assert "--objects needs a detector" in refusal_here("show_context.py", *args, *more, monkeypatch=monkeypatch)


@pytest.mark.parametrize("args", [["--weights", "model.pth"], ["--weights", "a=b", "--ratios", "1.0"]])
def test_options_are_explained(folder, monkeypatch, capsys, args):
    with pytest.raises(SystemExit) as caught:
        args = ["--config-file", "x", "--output", "y", *args]
        run_tool_here("show_context.py", *args, monkeypatch=monkeypatch)
    assert caught.value.code == 2 and args[-2] in capsys.readouterr().err
