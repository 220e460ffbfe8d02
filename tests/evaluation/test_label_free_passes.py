"""Predictions in several views, against Detectron2's own inference and against properties of the views."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from helpers.data import disturb
from helpers.models import C4, tiny_cfg
from mic_det.evaluation.label_free.criteria import CRITERIA
from mic_det.evaluation.label_free.measure import Images, measure, prototypes
from mic_det.evaluation.label_free.passes import look, masked, noisy_copy, predict, true_box_features

# untrained models: many boxes, of which NMS removes many
LEAST = {"MODEL__ROI_HEADS__SCORE_THRESH_TEST": 0.2, "MODEL__ROI_HEADS__NMS_THRESH_TEST": 0.1}


def images(count=3):
    generator = torch.Generator().manual_seed(5)
    sizes = [(48, 64), (64, 48), (40, 80)]
    return [(i, (torch.rand(3, *sizes[i % 3], generator=generator) * 255).to(torch.uint8)) for i in range(count)]


def model(seed=0, **keys):
    torch.manual_seed(seed)
    return disturb(build_model(tiny_cfg(**LEAST, **keys)), seed).eval()


@pytest.mark.parametrize("keys", [{}, C4, {"MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True}])
def test_the_whole_view_is_detectron2s_inference_and_nms_splits_its_candidates(keys):
    detector, removed = model(**keys).teacher, 0
    for _, image in images():
        (found,) = predict(detector, [image])
        expected = detector.inference([{"image": image}], do_postprocess=False)[0]
        np.testing.assert_array_equal(found.boxes, expected.pred_boxes.tensor.numpy())
        np.testing.assert_array_equal(found.scores, expected.scores.numpy())
        np.testing.assert_array_equal(found.classes, expected.pred_classes.numpy())
        np.testing.assert_allclose(found.probs[np.arange(len(found)), found.classes], found.scores, rtol=1e-6)
        # with an NMS that removes nothing, all candidates are kept
        predictor = detector.roi_heads.box_predictor
        kept, most = predictor.test_nms_thresh, predictor.test_topk_per_image
        predictor.test_nms_thresh, predictor.test_topk_per_image = 1.0, -1
        (everything,) = predict(detector, [image])
        predictor.test_nms_thresh, predictor.test_topk_per_image = kept, most
        both = np.vstack([np.hstack([x.boxes, x.scores[:, None], x.classes[:, None]]) for x in (found, found.removed)])
        all_of_it = np.hstack([everything.boxes, everything.scores[:, None], everything.classes[:, None]])
        removed += len(found.removed)
        assert {tuple(r) for r in both.tolist()} >= {tuple(r) for r in all_of_it.tolist()}
        assert len(both) - len(all_of_it) <= 1  # NMS with 1.0 removes exact copies
    assert removed


def test_features_of_a_box_are_those_that_its_region_has():
    detector = model().teacher
    _, image = images()[0]
    proposals = detector.proposal_generator(*_batch(detector, image), None)[0][0].proposal_boxes.tensor
    vectors = true_box_features(detector, image, proposals)
    (found,) = predict(detector, [image])
    for row in found.features:
        assert np.abs(vectors - row).max(axis=1).min() < 1e-5


def _batch(detector, image):
    batch = detector.preprocess_image([{"image": image}])
    return batch, detector.backbone(batch.tensor)


def test_views_are_the_same_detector_on_changed_images():
    mic = model()
    disturb(mic.student, 9)
    seen = look(mic.teacher, images(), mic.student)
    assert set(seen) == {"whole", "flip", "masked", "noise", "dropout", "other"}
    for i, (name, image) in enumerate(images()):
        width = image.shape[-1]
        (mirrored,) = predict(mic.teacher, [image.flip(-1)])
        np.testing.assert_allclose(seen["flip"][i].boxes[:, 0], width - mirrored.boxes[:, 2], atol=1e-3)
        np.testing.assert_allclose(seen["flip"][i].scores, mirrored.scores, atol=1e-5)
        (hidden,) = predict(mic.teacher, [masked(mic.teacher, image, name)])
        np.testing.assert_allclose(seen["masked"][i].scores, hidden.scores, atol=1e-5)
        (student,) = predict(mic.student, [image])
        np.testing.assert_array_equal(seen["other"][i].boxes, student.boxes)
        (noisy,) = predict(noisy_copy(mic.teacher), [image])
        np.testing.assert_array_equal(seen["noise"][i].boxes, noisy.boxes)
        assert not np.array_equal(seen["dropout"][i].scores, seen["whole"][i].scores)


def test_a_mask_hides_thirty_per_cent_by_the_mean_colour_and_is_the_same_for_all_detectors():
    detector, image = model().teacher, torch.full((3, 400, 400), 7, dtype=torch.uint8)
    hidden = masked(detector, image, "a.png")
    mean = detector.pixel_mean.view(3, 1, 1)
    is_hidden = (hidden == mean).all(dim=0)
    assert ((hidden == 7).all(dim=0) | is_hidden).all()
    assert is_hidden.float().mean() == pytest.approx(0.3, abs=0.05)
    torch.testing.assert_close(hidden, masked(model(3).teacher, image, "a.png"))
    assert not torch.equal(hidden, masked(detector, image, "b.png"))


def test_noise_is_relative_and_leaves_the_detector_alone():
    detector = model().teacher
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    noisy = noisy_copy(detector, 0.1)
    for (name, p), q in zip(detector.named_parameters(), noisy.parameters()):
        torch.testing.assert_close(p, before[name], rtol=0, atol=0)
        nonzero = p != 0
        if nonzero.sum() > 1000:
            assert float((q[nonzero] / p[nonzero] - 1).std()) == pytest.approx(0.1, rel=0.1)
    torch.testing.assert_close(dict(noisy.named_parameters()), dict(noisy_copy(detector, 0.1).named_parameters()))


def labelled():
    items = images()
    boxes = [np.array([[4.0, 4, 30, 30], [20, 10, 40, 36]]), np.zeros((0, 4)), np.array([[8.0, 4, 36, 30]])]
    return Images(items, boxes, [np.array([0, 2]), np.array([], int), np.array([2])])


def test_prototypes_are_mean_features_of_true_boxes():
    detector, source = model().teacher, labelled()
    found = prototypes(detector, source, 3)
    rows = [true_box_features(detector, x, b) for (_, x), b in zip(source.items, source.boxes) if len(b)]
    np.testing.assert_allclose(found[0], rows[0][0], rtol=1e-6)
    np.testing.assert_allclose(found[2], (rows[0][1] + rows[1][0]) / 2, rtol=1e-5)
    assert np.isnan(found[1]).all()


def test_all_criteria_are_measured_of_a_mean_teacher_and_modes_and_random_numbers_stay():
    mic = model()
    disturb(mic.student, 9)
    mic.train()
    state = torch.get_rng_state()
    measured = measure(mic, Images(images()), 3, labelled())
    assert set(measured.values) == set(CRITERIA) and len(measured) == 3
    assert torch.equal(torch.get_rng_state(), state)
    assert mic.training and mic.student.training and not mic.teacher.training
    again = measure(mic, Images(images()), 3, labelled())
    assert all(np.array_equal(measured.statistics[k], v) for k, v in again.statistics.items())


def test_a_copy_as_student_no_source_and_one_stage_detectors_leave_criteria_out():
    mic = model()
    mic.restart()
    assert "student_agreement" not in measure(mic, Images(images()), 3).values
    without = set(CRITERIA) - {"prototype_ratio", "count_distance", "student_agreement"}
    assert set(measure(mic.teacher, Images(images()), 3).values) == without
    dense = build_model(
        tiny_cfg(
            MODEL__META_ARCHITECTURE="RetinaNet", MODEL__RETINANET__NUM_CLASSES=3,
            MODEL__BACKBONE__NAME="build_retinanet_resnet_fpn_backbone",
            MODEL__RETINANET__IN_FEATURES=["p3", "p4", "p5"],
            MODEL__FPN__IN_FEATURES=["res3", "res4", "res5"], MODEL__RETINANET__SCORE_THRESH_TEST=0.0,
            MODEL__ANCHOR_GENERATOR__SIZES=[[16], [32], [64]],
        )
    ).eval()  # fmt: skip
    found = measure(dense, Images(images()), 3, labelled())
    assert set(found.values) == {"flip_agreement", "mask_agreement", "count_distance", "mean_score"}
