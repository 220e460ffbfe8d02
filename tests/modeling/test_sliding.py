"""Prediction window by window: compared with the whole image, and with a loop over windows written out."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import SemanticSegmentor, build_model

from helpers.models import random_image, source_input, target_input, tiny_cfg
from mic_det.modeling.sliding import SlidingSegmentor

CFG = {
    "MODEL__META_ARCHITECTURE": "SlidingSegmentor", "MODEL__BACKBONE__NAME": "build_resnet_backbone",
    "MODEL__SEM_SEG_HEAD__NAME": "DAFormerHead", "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 5,
    "MODEL__SEM_SEG_HEAD__IN_FEATURES": ["res2", "res3", "res4", "res5"], "MODEL__SEM_SEG_HEAD__CONVS_DIM": 8,
    "MODEL__SEM_SEG_HEAD__NORM": "", "MODEL__SEM_SEG_HEAD__IGNORE_VALUE": 255,
}  # fmt: skip


def build(**keys):
    torch.manual_seed(0)
    return build_model(tiny_cfg(**{**CFG, **keys})).eval()


def predict(model, size, **keys):
    with torch.no_grad():
        return model([{"image": random_image(size), **keys}])[0]["sem_seg"]


def test_logits_are_the_mean_of_the_windows():
    model, size = build(MODEL__SLIDING__SIZE=(64, 64), MODEL__SLIDING__STRIDE=(32, 48)), (96, 150)
    image = (random_image(size) - model.pixel_mean) / model.pixel_std
    total, times = torch.zeros(5, *size), torch.zeros(size)
    with torch.no_grad():
        for y in (0, 32):
            for x in (0, 48, 86):
                logits = model.sem_seg_head(model.backbone(image[None, :, y : y + 64, x : x + 64]))[0][0]
                total[:, y : y + 64, x : x + 64] += logits
                times[y : y + 64, x : x + 64] += 1
    torch.testing.assert_close(predict(model, size), total / times, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [(), (96, 160), (200, 300)])
def test_a_window_as_large_as_the_image_is_detectron2s_own_prediction(window):
    model, plain = build(MODEL__SLIDING__SIZE=window), build(MODEL__META_ARCHITECTURE="SemanticSegmentor")
    found, expected = predict(model, (96, 160)), predict(plain, (96, 160))
    assert type(plain) is SemanticSegmentor and type(model) is SlidingSegmentor
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_output_has_the_size_that_is_asked_for_also_of_images_smaller_than_a_window():
    model = build(MODEL__SLIDING__SIZE=(64, 64))
    assert model.stride == (32, 32)
    assert predict(model, (50, 70), height=100, width=140).shape == (5, 100, 140)
    whole = F.interpolate(predict(model, (50, 70))[None], (100, 140), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(predict(model, (50, 70), height=100, width=140), whole, rtol=1e-4, atol=1e-5)


def test_it_is_a_student_of_mic():
    model = build(MODEL__META_ARCHITECTURE="MIC", MODEL__MIC__STUDENT="SlidingSegmentor",
                  MODEL__SLIDING__SIZE=(64, 64)).train()  # fmt: skip
    losses = model([{**source_input(), "sem_seg": torch.randint(0, 5, (64, 96))}, target_input()])
    assert set(losses) == {"source/loss_sem_seg", "masked/loss_sem_seg"}
    model.eval()
    torch.testing.assert_close(predict(model, (64, 160)), predict(model.teacher, (64, 160)))
