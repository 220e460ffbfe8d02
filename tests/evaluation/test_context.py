"""Objects without context and context without objects: which pixels are shown, and what detectors lose by it."""

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, BoxMode, Instances

from helpers.data import forget_registered_sets, load, tiny_config, write_coco, write_image
from mic_det.evaluation.coco import DetectionEvaluator
from mic_det.evaluation.hidden_pixels import (
    HiddenPatches,
    TrueBoxesShown,
    evaluate_hidden,
    true_boxes,
)

MEAN = (10.0, 20.0, 30.0)
SIZE = (40, 60)  # height and width of the files; the detector's input is twice as large


class Detector(torch.nn.Module):
    """Finds the true boxes of an image if a pixel that it relies on is as it was: inside a box, or far from all."""

    def __init__(self, truth=(), relies_on=(0, 0)):
        super().__init__()
        self.register_buffer("pixel_mean", torch.tensor(MEAN).view(3, 1, 1))
        self.truth, self.relies_on = truth, relies_on

    def forward(self, batched_inputs):
        return [{"instances": self.find(x)} for x in batched_inputs]

    def find(self, x):
        y, x0 = self.relies_on
        boxes = self.truth[x["image_id"]] if x["image"][0, y, x0] == 200 else torch.zeros(0, 4)
        n = len(boxes)
        return Instances(SIZE, pred_boxes=Boxes(boxes.float()), scores=torch.ones(n),
                         pred_classes=torch.zeros(n, dtype=torch.int64))  # fmt: skip


def shown(boxes, inside, size=(80, 120)):
    image = torch.full((3, *size), 200, dtype=torch.uint8)
    x = {"image": image, "image_id": 5, "height": SIZE[0], "width": SIZE[1]}
    view = TrueBoxesShown(Detector(), {5: torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)}, inside)
    seen = view.hide(x)["image"]
    visible = (seen == 200).all(dim=0)
    assert torch.equal(seen[:, ~visible], torch.tensor(MEAN)[:, None].expand(3, int((~visible).sum())))
    assert (x["image"] == 200).all(), "the input is as it was"
    return visible


def test_boxes_are_shown_in_the_frame_of_the_input():
    inside = shown([[10, 5, 30, 20], [50, 30, 60, 40]], True)  # in pixels of the file, half the input's
    expected = torch.zeros(80, 120, dtype=torch.bool)
    expected[10:40, 20:60] = expected[60:80, 100:120] = True
    assert torch.equal(inside, expected)
    assert torch.equal(shown([[10, 5, 30, 20], [50, 30, 60, 40]], False), ~expected)


def test_boxes_cover_whole_pixels_and_may_stick_out():
    visible = shown([[10.3, 5.1, 29.9, 19.6], [-4, -4, 1, 1], [59, 38, 70, 50]], True)
    expected = torch.zeros(80, 120, dtype=torch.bool)
    expected[10:40, 20:60] = expected[:2, :2] = expected[76:, 118:] = True
    assert torch.equal(visible, expected)


def test_without_boxes_nothing_or_everything_is_shown():
    assert not shown([], True).any() and shown([], False).all()


def test_true_boxes_of_a_sets_dicts():
    xywh = {"bbox": [1, 2, 10, 20], "bbox_mode": BoxMode.XYWH_ABS, "iscrowd": 1}
    xyxy = {"bbox": [1.5, 2, 10, 20], "bbox_mode": BoxMode.XYXY_ABS}
    found = true_boxes([{"image_id": "a", "annotations": [xywh, xyxy]}, {"image_id": 7, "annotations": []}])
    assert found["a"].tolist() == [[1, 2, 11, 22], [1.5, 2, 10, 20]] and found[7].shape == (0, 4)


@pytest.mark.parametrize(
    "relies_on, expected",
    [((30, 40), [100, 100, 0]), ((79, 119), [100, 0, 100])],
    ids=["on what is in the boxes", "on the context"],
)
def test_a_detector_loses_what_it_relies_on(tmp_path, relies_on, expected):
    """Three images with a box each, all over one pixel, and none near the lower right corner."""
    boxes = [(0, 0, (10, 5, 20, 20)), (1, 0, (15, 10, 20, 15)), (2, 0, (10, 10, 30, 20))]
    for i in range(3):
        write_image(tmp_path / f"{i}.png", torch.full((*SIZE, 3), 200, dtype=torch.uint8).numpy())
    write_coco(tmp_path / "set.json", [(f"{i}.png", SIZE[1], SIZE[0]) for i in range(3)], boxes, classes=("car",))
    with forget_registered_sets():
        entry = {"set": {"JSON": str(tmp_path / "set.json"), "IMAGES": str(tmp_path)}}
        load(tmp_path, tiny_config(tmp_path, DATASETS__CUSTOM=entry, DATASETS__TEST=["set"]))
        dicts = DatasetCatalog.get("set")
        truth = true_boxes(dicts)
        image = torch.full((3, 80, 120), 200, dtype=torch.uint8)
        loader = [[{**{k: d[k] for k in ("image_id", "height", "width")}, "image": image}] for d in dicts]
        detector, counted = Detector(truth, relies_on).eval(), []
        views = [
            HiddenPatches(detector, 8, 0.0),
            TrueBoxesShown(detector, truth),
            TrueBoxesShown(detector, truth, False),
        ]
        judge = DetectionEvaluator("set", output_dir=str(tmp_path / "out"))
        found = evaluate_hidden(views, lambda: loader, judge, lambda: counted.append(1))
    assert found["AP50"] == pytest.approx(expected) and found["AP50-car"] == pytest.approx(expected)
    assert len(counted) == 9
