"""Resizing without Pillow and Detectron2 gives their pixels and sizes."""

import numpy as np
import pytest
from detectron2.data.transforms import ResizeShortestEdge
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mic_det.deploy.resize import resize_bilinear, resized_shape

SIDES = st.integers(1, 3000)


@settings(deadline=None, derandomize=True)
@given(SIDES, SIDES, SIDES, SIDES)
def test_sizes_are_detectron2s(height, width, shorter, longer):
    expected = ResizeShortestEdge.get_output_shape(height, width, shorter, longer)
    assert resized_shape(height, width, shorter, longer) == expected


def test_a_shorter_side_of_0_keeps_the_size():
    assert resized_shape(37, 51, 0, 10) == (37, 51)


@pytest.mark.parametrize(("height", "width"), [(96, 160), (160, 96), (75, 100), (101, 57)])
@pytest.mark.parametrize("shorter", [24, 33, 57, 90, 150])
@pytest.mark.parametrize("kind", ["noise", "black and white"])
def test_pixels_are_pillows_bit_for_bit(height, width, shorter, kind):
    image = np.random.default_rng(shorter).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind != "noise":
        image = np.where(image > 127, 255, 0).astype(np.uint8)
    size = resized_shape(height, width, shorter, 200)
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], Image.BILINEAR))
    assert np.array_equal(resize_bilinear(image, *size), expected)


@pytest.mark.parametrize(("old", "new"), [(7, 1), (1, 7), (120, 119), (50, 1000)])
def test_one_axis_at_a_time(old, new):
    image = np.random.default_rng(0).integers(0, 256, (old, 5, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((5, new), Image.BILINEAR))
    assert np.array_equal(resize_bilinear(image, new, 5), expected)
    turned = resize_bilinear(np.ascontiguousarray(image.swapaxes(0, 1)), 5, new)
    assert np.array_equal(turned.swapaxes(0, 1), expected)
