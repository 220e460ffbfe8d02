"""Which images of a labelled set are shown: one from each part, with a medium number of boxes."""

import itertools
import statistics

import numpy as np
import pytest

from mic_det.visualization.before_after import typical_images


@pytest.mark.parametrize(
    "boxes, count, expected",
    [
        ([1, 6, 12, 6, 0, 9], 2, [1, 3]),  # the median of 1, 6, 12, 6, 9 is 6
        ([0, 0, 3, 0, 0, 4], 2, [2, 5]),  # empty images neither count nor are shown
        ([0, 0, 0], 2, [0, 2]),
        ([20, 2, 3, 1], 1, [1]),  # 2.5: the first of two that are as close
        ([5], 4, [0]),
    ],
)
def test_by_hand(boxes, count, expected):
    assert typical_images(boxes, count) == expected


def test_no_image_of_a_part_is_closer_to_the_median():
    rng = np.random.default_rng(0)
    for size, count in itertools.product((3, 7, 60), (1, 3, 4)):
        boxes = rng.integers(0, 12, size).tolist()
        median = statistics.median([x for x in boxes if x])
        chosen = typical_images(boxes, count)
        number = min(count, size)
        lengths = [size // number + (i < size % number) for i in range(number)]
        begins = [0, *itertools.accumulate(lengths)]
        assert len(chosen) == number
        for image, first, end in zip(chosen, begins, begins[1:]):
            assert first <= image < end
            assert abs(boxes[image] - median) == min(abs(x - median) for x in boxes[first:end])
