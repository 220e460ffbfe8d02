"""The fog model against hand-computed values and its properties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mic_det.data.fog import (
    add_fog,
    depth_to_distance,
    disparity_to_depth,
    encode_disparity,
    estimate_airlight,
)


def test_flat_distance_by_hand():
    image = np.full((2, 3, 3), 100, np.uint8)
    # t = exp(-0.02 * 50) = 0.36788; 100 t + 200 (1 - t) = 163.2
    assert (add_fog(image, np.full((2, 3), 50.0), 0.02, 200) == 163).all()
    floats = add_fog(image / 255, np.full((2, 3), 50.0), 0.02, 200 / 255)
    np.testing.assert_allclose(floats, (200 - 100 * math.exp(-1)) / 255)


def test_airlight_may_have_a_colour():
    foggy = add_fog(np.zeros((1, 1, 3)), np.full((1, 1), np.inf), 0.01, (10.0, 20.0, 30.0))
    assert foggy[0, 0].tolist() == [10, 20, 30]


def test_beta_zero_is_the_identity_and_a_copy():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    clear = add_fog(image, np.full((2, 2), 1e9), 0, 200)
    assert (clear == image).all() and clear is not image


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.floats(0, 0.1), st.floats(0, 0.1), st.floats(0, 500), st.floats(0, 500), st.floats(0, 255))
def test_more_fog_and_more_distance_are_never_closer_to_the_clear_image(beta1, beta2, d1, d2, value):
    def foggy(beta, distance):
        return add_fog(np.full((1, 1), value), np.full((1, 1), distance), beta, 255.0)[0, 0]

    low, high = sorted((beta1, beta2))
    near, far = sorted((d1, d2))
    assert foggy(low, d1) <= foggy(high, d1) + 1e-9
    assert foggy(beta1, near) <= foggy(beta1, far) + 1e-9
    assert value - 1e-9 <= foggy(beta1, d1) <= 255 + 1e-9


@pytest.mark.parametrize(
    "distance, beta, message",
    [(np.ones((2, 2)), -0.1, "beta"), (np.ones((3, 2)), 0.1, "one size"), (-np.ones((2, 2)), 0.1, "distances"),
     (np.full((2, 2), np.nan), 0.1, "distances"), (np.ones((2, 2)), float("nan"), "beta"),
     (np.zeros((2, 2)), float("inf"), "beta")],
)  # fmt: skip
def test_refusals(distance, beta, message):
    with pytest.raises(ValueError, match=message):
        add_fog(np.zeros((2, 2, 3), np.uint8), distance, beta, 200)


@pytest.mark.parametrize("airlight", [(1, 2), float("nan"), (1, 2, float("inf")), np.ones((2, 2, 3))])
def test_airlight_that_fits_no_channel_is_refused(airlight):
    with pytest.raises(ValueError, match="airlight"):
        add_fog(np.zeros((2, 2, 3), np.uint8), np.ones((2, 2)), 0.1, airlight)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_tensors_give_tensors_of_the_same_values(dtype):
    rng = np.random.default_rng(0)
    image, distance = rng.integers(0, 256, (3, 4, 3)).astype(dtype), rng.uniform(0, 90, (3, 4))
    foggy = add_fog(torch.from_numpy(image), torch.from_numpy(distance), 0.02, (200, 205, 210))
    assert isinstance(foggy, torch.Tensor)
    expected = add_fog(image, distance, 0.02, (200, 205, 210))
    assert foggy.numpy().dtype == expected.dtype == dtype and (foggy.numpy() == expected).all()


def test_airlight_is_found_where_the_fog_is_thick():
    rng = np.random.default_rng(0)
    clear, distance = rng.integers(0, 256, (64, 96, 3)).astype(np.uint8), np.full((64, 96), 20.0)
    distance[:24] = np.inf  # sky
    clear[50, 40] = 255  # a white thing nearby is no sky
    foggy = add_fog(clear, distance, 0.02, (180.0, 190.0, 200.0))
    np.testing.assert_allclose(estimate_airlight(foggy), (180, 190, 200), atol=0.5)
    with pytest.raises(ValueError, match="H, W, 3"):
        estimate_airlight(clear[:, :, 0])


def test_disparity_by_hand():
    # p = 2561: (2561 - 1) / 256 = 10 pixels; 0.2 m * 500 px / 10 px = 10 m
    depth = disparity_to_depth(np.array([[2561, 0, 1]], np.uint16), 0.2, 500)
    assert depth[0, 0] == 10 and np.isnan(depth[0, 1]) and np.isinf(depth[0, 2])


def test_disparity_round_trip_within_its_resolution():
    depth = np.linspace(5, 100, 50).reshape(5, 10)
    back = disparity_to_depth(encode_disparity(depth, 0.22, 2262), 0.22, 2262)
    # half a step of 1/256 pixel
    assert (np.abs(0.22 * 2262 / back - 0.22 * 2262 / depth) <= 0.5 / 256 + 1e-9).all()


def test_distance_is_measured_along_the_ray():
    distance = depth_to_distance(np.full((5, 9), 10.0), 4, 4, 4, 0)
    assert distance[0, 4] == 10  # on the axis
    assert distance[3, 4] == pytest.approx(12.5)  # 3-4-5 triangle
    assert distance[3, 8] == pytest.approx(10 * math.sqrt(1 + 1 + 9 / 16))
