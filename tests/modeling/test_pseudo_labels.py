"""Pseudo-labels against brute force, and their place in the student's frame."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, BoxMode, ImageList, Instances
from PIL import Image
from torch import nn

from helpers.models import source_input, target_input, tiny_cfg
from mic_det.data.mapper import DomainMapper
from mic_det.modeling.pseudo_labels import rejection_reasons, select_pseudo_boxes, sem_seg_pseudo_labels


def random_detections(seed, n=40, classes=3):
    g = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(n, 2, generator=g) * 60, torch.rand(n, 2, generator=g) * 30 + 0.5
    return Instances(
        (100, 100), pred_boxes=Boxes(torch.cat([corner, corner + size], 1)), scores=torch.rand(n, generator=g),
        pred_classes=torch.randint(0, classes, (n,), generator=g),
    )  # fmt: skip


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def brute_force(instances, thresholds, nms, cap, min_size):
    found = []
    rows = zip(instances.pred_boxes.tensor.tolist(), instances.scores.tolist(), instances.pred_classes.tolist())
    for box, score, label in sorted(rows, key=lambda row: -row[1]):
        if score < thresholds[label] or min(box[2] - box[0], box[3] - box[1]) < max(min_size, 1e-9):
            continue
        if nms is not None and any(c == label and iou(b, box) > nms for b, _, c in found):
            continue
        found.append((box, score, label))
    return found[:cap]


@pytest.mark.parametrize("thresholds", [(0.5, 0.5, 0.5), (0.2, 0.9, 0.6)])
@pytest.mark.parametrize("nms, cap, min_size", [(None, None, 0), (0.3, None, 0), (0.5, 5, 8.0), (0.0, None, 3.0)])
def test_selection_equals_brute_force(thresholds, nms, cap, min_size):
    for seed in range(10):
        instances = random_detections(seed)
        delta = thresholds[0] if len(set(thresholds)) == 1 else thresholds
        got = select_pseudo_boxes(instances, delta, nms, max_boxes=cap, min_size=min_size)
        expected = brute_force(instances, thresholds, nms, cap, min_size)
        assert len(got) == len(expected)
        for box, score, label, (b, s, c) in zip(got.gt_boxes.tensor, got.scores, got.gt_classes, expected):
            assert box.tolist() == b and score.item() == s and label.item() == c
        assert got.image_size == (100, 100)


def test_a_score_equal_to_the_threshold_is_kept():
    instances = random_detections(0, n=2)
    instances.scores = torch.tensor([0.75, 0.5])
    assert len(select_pseudo_boxes(instances, 0.75)) == 1


@pytest.mark.parametrize("nms, min_size", [(None, 0.0), (0.5, 0.0), (0.5, 1.0)])
def test_boxes_without_width_or_height_are_never_pseudo_boxes(nms, min_size):
    """As detections are that lie outside the image and are clipped to its border."""
    boxes = torch.tensor([[100.0, 20, 130, 50], [30.0, -40, 50, -10], [-9.0, -9, -1, -1], [10.0, 10, 30, 30]])
    instances = Instances((100, 100), pred_boxes=Boxes(boxes), scores=torch.tensor([0.99, 0.98, 0.97, 0.9]),
                          pred_classes=torch.tensor([0, 1, 2, 0]))  # fmt: skip
    instances.pred_boxes.clip((100, 100))
    found = select_pseudo_boxes(instances, 0.8, nms, min_size=min_size)
    assert found.gt_boxes.tensor.tolist() == [[10, 10, 30, 30]]
    assert rejection_reasons(instances, 0.8, nms, min_size=min_size) == ["size", "size", "size", ""]


def test_a_detection_at_the_border_makes_no_anchor_positive_and_the_box_loss_infinite():
    """One of the teacher's detections has no area: the step's losses are those without it."""
    keys = {"MODEL__MIC__CONSISTENCY__RPN_BOX_REG_WEIGHT": 1.0, "MODEL__MIC__CONSISTENCY__ROI_BOX_REG_WEIGHT": 1.0}
    model, losses = build_model(tiny_cfg(**keys)).train(), []
    model.begin_step()
    heads = model.teacher.roi_heads
    for boxes in ([[8.0, 16, 40, 48]], [[8.0, 16, 40, 48], [96.0, 10, 96, 40]]):
        found = Instances((64, 96), pred_boxes=Boxes(boxes), scores=torch.full((len(boxes),), 0.9),
                          pred_classes=torch.ones(len(boxes), dtype=torch.int64))  # fmt: skip
        heads.forward = lambda *_, found=found: ([found], {})
        torch.manual_seed(3)
        losses.append(model([source_input(), target_input()]))
    assert losses[0]["masked/loss_rpn_loc"] > 0 and losses[0]["masked/loss_box_reg"] > 0
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value)


def test_no_detections_give_no_boxes():
    for threshold in (0.5, (0.5, 0.5, 0.5)):
        empty = select_pseudo_boxes(random_detections(0, n=0), threshold, 0.5)
        assert len(empty) == 0 and empty.gt_boxes.tensor.shape == (0, 4)


def test_sem_seg_labels_and_quality_by_hand():
    # two classes: a difference of logits x gives the top probability 1 / (1 + exp(-|x|))
    x = torch.tensor([[[4.0, -4.0], [0.1, 3.0]]])  # 0.982, 0.982, 0.525, 0.953
    labels, quality = sem_seg_pseudo_labels(torch.stack([x, torch.zeros_like(x)], dim=1), 0.968)
    assert labels.tolist() == [[[0, 1], [0, 0]]]
    assert labels.dtype == torch.int64 and quality.tolist() == [0.5]


class RectangleFinder(nn.Module):
    """A teacher that finds the one bright rectangle of an image: its boxes follow geometry alone."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.roi_heads = lambda images, *_: ([self.detect(image) for image in images], None)
        self.roi_heads.num_classes = 3
        self.backbone, self.proposal_generator = (lambda x: x), (lambda *_: ([], {}))

    def preprocess_image(self, inputs):
        return ImageList.from_tensors([x["image"].float() for x in inputs], 32)

    def detect(self, image):
        rows, columns = (np.flatnonzero((image[0] > 128).any(dim=d).numpy()) for d in (1, 0))
        box = torch.tensor([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], dtype=torch.float32)
        return Instances(
            tuple(image.shape[-2:]), pred_boxes=Boxes(box), scores=torch.tensor([0.9]), pred_classes=torch.tensor([1])
        )


def bright_rectangle(size, x0, y0, x1, y1):
    image = torch.zeros(3, *size, dtype=torch.uint8)
    image[:, y0:y1, x0:x1] = 255
    return {"image": image, "domain": "target"}


@pytest.mark.parametrize("input_size", [0, 32, 100, 128])
def test_a_flip_and_a_resize_move_pseudo_boxes_as_they_move_the_object(input_size):
    model = build_model(tiny_cfg(MODEL__MIC__TEACHER__INPUT_SIZE=input_size))
    model.teacher = RectangleFinder()
    views = [((64, 96), (8, 16, 40, 48)), ((64, 96), (96 - 40, 16, 96 - 8, 48)), ((128, 192), (16, 32, 80, 96))]
    inputs = [bright_rectangle(size, *box) for size, box in views]
    boxes = model.teach(inputs)["boxes"].boxes
    tolerance = 1e-4 if input_size == 0 else 2 * 128 / (input_size or 128)  # a pixel of the teacher's image
    for (size, box), pseudo in zip(views, boxes):
        assert pseudo.image_size == size
        torch.testing.assert_close(pseudo.gt_boxes.tensor, torch.tensor([box]).float(), rtol=0, atol=tolerance)
        assert pseudo.gt_classes.tolist() == [1] and pseudo.scores.tolist() == [pytest.approx(0.9)]


@pytest.mark.parametrize("sampling, sizes", [("choice", (48, 64, 80)), ("range", (48, 80))])
def test_boxes_fit_the_object_at_every_scale_in_both_domains(tmp_path, sampling, sizes):
    """The object's place is measured in the pixels of the mapped image itself."""
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[16:48, 8:40] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    truth = [{"bbox": [8, 16, 32, 32], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}]
    x = {"file_name": str(tmp_path / "a.png"), "image_id": 1, "height": 64, "width": 96, "annotations": truth}
    cfg = tiny_cfg(INPUT__MIN_SIZE_TRAIN=sizes, INPUT__MIN_SIZE_TRAIN_SAMPLING=sampling, INPUT__MAX_SIZE_TRAIN=400)
    model = build_model(cfg)
    model.teacher = RectangleFinder()
    mappers = {domain: DomainMapper(cfg, domain=domain) for domain in ("source", "target")}
    seen, sides = {"source": set(), "target": set()}, set()
    for domain in ["source", "target"] * 30:
        mapped = mappers[domain](x)
        size = tuple(mapped["image"].shape[-2:])
        rows, columns = (np.flatnonzero((mapped["image"][0] > 128).any(dim=d).numpy()) for d in (1, 0))
        place = torch.tensor([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]]).float()
        if domain == "target":
            pseudo = model.teach([mapped])["boxes"].boxes[0]
            assert pseudo.image_size == size
            assert torch.equal(pseudo.gt_boxes.tensor, place)
        else:  # the bright pixels end within the pixel in which the true box ends
            torch.testing.assert_close(mapped["instances"].gt_boxes.tensor, place, rtol=0, atol=0.75)
        seen[domain].add(min(size))
        sides.add(bool(columns[0] < size[1] / 4))
    assert sides == {True, False}, "some images are flipped"
    for found in seen.values():
        assert found == set(sizes) if sampling == "choice" else len(found) > 5 and 48 <= min(found) <= max(found) <= 80


def test_the_log_tells_counts_scores_and_classes(storage):
    model = build_model(tiny_cfg())
    model.class_names = ("person", "car", "tram")
    model.teacher = RectangleFinder()
    model.teach([bright_rectangle((64, 96), 8, 16, 40, 48)] * 3)
    model.task("boxes").select["score_threshold"] = 0.95
    latest = {k: v for k, (v, _) in storage.latest().items()}
    assert latest["pseudo/num_boxes"] == 1 and latest["pseudo/empty_images"] == 0
    assert latest["pseudo/mean_score"] == pytest.approx(0.9)
    assert (latest["pseudo/num_boxes_car"], latest["pseudo/num_boxes_tram"]) == (1, 0)
    model.teach([bright_rectangle((64, 96), 8, 16, 40, 48)])
    assert storage.latest()["pseudo/empty_images"][0] == 1


@pytest.mark.parametrize("shift", [1, 3])
def test_a_teacher_that_sees_small_images_sees_their_mean_and_no_moire(shift):
    """Stripes of two pixels, a quarter as large: each of the teacher's pixels is the mean of a whole period.

    Without antialiasing it would be that of two neighbours alone: black or white, as the stripes lie here.
    """
    model = build_model(tiny_cfg(MODEL__MIC__TEACHER__INPUT_SIZE=16))
    seen = []
    model.teacher.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    stripes = ((torch.arange(96) + shift) % 4 < 2).to(torch.uint8) * 200
    model.teach([{"image": stripes.expand(3, 64, 96), "domain": "target"}])
    image = (seen[0] * model.teacher.pixel_std + model.teacher.pixel_mean)[0, :, :16, :24]
    inner = image[:, :, 2:-2]  # the filter is cut off at the image's border
    torch.testing.assert_close(inner, torch.full_like(inner, 100.0), rtol=0, atol=1.0)


def test_background_probability_is_the_teachers_own():
    model = build_model(tiny_cfg(MODEL__MIC__TEACHER__INPUT_SIZE=128)).eval()
    background_prob = model.teach([target_input(), target_input(5)])["boxes"].background_prob
    boxes = [torch.tensor([[4.0, 4.0, 60.0, 50.0], [30.0, 10.0, 90.0, 60.0]]), torch.zeros(0, 4)]
    first, second = background_prob(boxes)
    assert len(second) == 0
    # by hand: the whole path again for one image, twice as large
    teacher = model.teacher
    image = nn.functional.interpolate(
        target_input()["image"][None].float(), size=(128, 192), mode="bilinear", antialias=True
    )
    other = nn.functional.interpolate(
        target_input(5)["image"][None].float(), size=(128, 192), mode="bilinear", antialias=True
    )
    features = teacher.backbone((torch.cat([image, other]) - teacher.pixel_mean) / teacher.pixel_std)
    heads = teacher.roi_heads
    pooled = heads.box_pooler([features[f] for f in heads.box_in_features], [Boxes(boxes[0] * 2), Boxes(boxes[1])])
    logits, _ = heads.box_predictor(heads.box_head(pooled))
    torch.testing.assert_close(first, logits.softmax(1)[:, 3].detach())
