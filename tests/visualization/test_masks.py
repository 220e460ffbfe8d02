"""Instance masks in pictures: which pixels have which colour."""

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from mic_det.visualization.masks import overlay_masks, predicted_masks, true_masks
from mic_det.visualization.panels import COLORS, draw_boxes, draw_instances, draw_truth

GREY = np.full((60, 900, 3), 100, np.uint8)  # wide enough to be drawn as it is
RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def rectangle(x0, y0, x1, y1):
    mask = np.zeros(GREY.shape[:2], bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_the_first_mask_has_the_pixels_that_two_masks_share():
    drawn = overlay_masks(GREY, np.stack([rectangle(0, 0, 20, 60), rectangle(10, 0, 30, 60)]), [RED, BLUE])
    assert (GREY == 100).all(), "it draws on a copy"
    assert (drawn[:, :20] == (177, 50, 50)).all() and (drawn[:, 20:30] == (50, 50, 177)).all()
    assert (drawn[:, 30:] == 100).all()


def test_masks_in_boxes_and_in_the_image_are_the_same_masks():
    """The left half of a box of 40 x 20 pixels, once as probabilities of 20 x 20 cells and once as pixels."""
    boxes = Boxes(torch.tensor([[100.0, 10.0, 140.0, 30.0]]))
    cells = (torch.arange(20) < 10).float().expand(1, 1, 20, 20)
    in_box = Instances(GREY.shape[:2], pred_boxes=boxes, pred_masks=cells)
    pseudo = Instances(GREY.shape[:2], boxes=boxes, mask_probs=cells[:, 0])
    whole = Instances(GREY.shape[:2], pred_boxes=boxes, pred_masks=torch.as_tensor(rectangle(100, 10, 120, 30)[None]))
    for found in (in_box, pseudo, whole):
        assert np.array_equal(predicted_masks(found, boxes, GREY.shape)[0], rectangle(100, 10, 120, 30))
    assert predicted_masks(Instances(GREY.shape[:2], pred_boxes=boxes), boxes, GREY.shape) is None


def test_true_masks_are_polygons_or_bitmasks():
    expected = rectangle(10, 10, 30, 40)
    polygon = PolygonMasks([[np.array([10, 10, 30, 10, 30, 40, 10, 40], float)]])
    for masks in (polygon, BitMasks(torch.as_tensor(expected[None]))):
        assert np.array_equal(true_masks(Instances(GREY.shape[:2], gt_masks=masks), GREY.shape)[0], expected)
    assert true_masks(Instances(GREY.shape[:2]), GREY.shape) is None


def test_pictures_of_detections_and_of_the_truth_show_masks_in_the_class_colour():
    inside, boxes = rectangle(102, 12, 138, 28), Boxes(torch.tensor([[100.0, 10.0, 140.0, 30.0]]))
    color = 50 + (COLORS[1] * 127.5).astype(np.uint8)
    found = Instances(GREY.shape[:2], pred_boxes=boxes, scores=torch.tensor([0.9]), pred_classes=torch.tensor([1]))
    found.pred_masks = torch.as_tensor(inside[None])
    truth = Instances(GREY.shape[:2], gt_boxes=boxes, gt_classes=torch.tensor([1]), gt_masks=BitMasks(inside[None]))
    detections = draw_instances(GREY, found, found.pred_boxes, found.pred_classes, (), labels=False)
    for drawn in (detections, draw_truth(GREY, truth, (), labels=False)):
        assert (drawn[14:26, 104:136] == color).all()
    without = draw_boxes(GREY, boxes.tensor.numpy(), [1], labels=False)
    assert np.array_equal(detections[~rectangle(95, 5, 145, 35)], without[~rectangle(95, 5, 145, 35)])
