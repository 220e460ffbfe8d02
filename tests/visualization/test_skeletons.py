"""Skeletons: which points and lines are drawn, and where."""

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from mic_det.visualization.panels import draw_boxes, draw_instances
from mic_det.visualization.skeletons import FILLED, HIDDEN, HOLLOW, Skeleton, draw_skeletons

BLACK = np.zeros((100, 1000, 3), np.uint8)
RED = [(1.0, 0.0, 0.0)]


def test_filled_points_have_lines_and_hollow_ones_have_not():
    rows = [[100.5, 50.5, FILLED], [300.5, 50.5, FILLED], [500.5, 50.5, HOLLOW], [700.5, 50.5, HIDDEN]]
    drawn = draw_skeletons(BLACK, np.array([rows]), Skeleton([(0, 1), (1, 2), (2, 3)]), RED)
    assert not BLACK.any(), "it draws on a copy"
    assert drawn[50, 100, 0] == drawn[50, 300, 0] == 255  # points
    assert drawn[50, 200].tolist() == [255, 0, 0], "a line between sure points"
    assert not drawn[:, 320:480].any(), "no line to an unsure point"
    assert not drawn[50, 500].any() and drawn[45:56, 490:511, 0].max() > 100, "a hollow point"
    assert not drawn[:, 600:].any(), "a point that is not there"
    assert draw_skeletons(BLACK, np.array([rows]), None, RED)[50, 200].tolist() == [0, 0, 0]


def test_predictions_are_sure_from_the_least_score_on_in_classes_with_keypoints():
    keypoints = np.array([[[1, 2, 0.05], [3, 4, 0.04]], [[5, 6, 0.9], [7, 8, 0.9]]])
    assert Skeleton([], [1]).styled(keypoints, [1, 0]).tolist() == [[[1, 2, 2], [3, 4, 1]], [[5, 6, 0], [7, 8, 0]]]
    assert Skeleton([]).styled(keypoints, [1, 0])[:, :, 2].tolist() == [[2, 1], [2, 2]]
    assert Skeleton([]).styled(keypoints[:0], []).shape == (0, 2, 3)


def test_boxes_are_drawn_with_their_skeletons_in_pictures_that_are_enlarged():
    found = Instances((50, 400), pred_boxes=Boxes(torch.tensor([[40.0, 5.0, 360.0, 45.0]])))
    found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
    found.pred_keypoints = torch.tensor([[[100.0, 25.0, 0.9], [300.0, 25.0, 0.9]]])
    image, skeleton = np.zeros((50, 400, 3), np.uint8), Skeleton([(0, 1)])
    args = (image, found, found.pred_boxes, found.pred_classes, ())
    plain, drawn = draw_instances(*args), draw_instances(*args, skeleton=skeleton)
    changed = np.abs(drawn.astype(int) - plain).max(axis=2) > 60
    assert drawn.shape == (100, 800, 3) and changed[50, 210:590].all() and not changed[:40].any()
    assert not changed[:, :190].any() and not changed[:, 610:].any()
    without = draw_boxes(image, np.zeros((0, 4)), [], keypoints=np.zeros((0, 2, 3)), skeleton=skeleton)
    assert not without.any()
