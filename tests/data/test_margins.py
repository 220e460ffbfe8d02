"""Margins of the original image in the view of the student: compared with where each pixel of the view comes from."""

import numpy as np
import pytest
import torch
from detectron2.utils.env import seed_all_rng

from helpers.data import load, tiny_config, write_image
from mic_det.data.mapper import DomainMapper
from mic_det.errors import DataError

W, H = 200, 120
PIXELS, SHARES = (12, 30, 10, 20), (0.1, 0.25, 0.05, 0.1)  # top, bottom, left, right: the same of this image


def config(folder, margins, **keys):
    keys = {
        "MODEL__META_ARCHITECTURE": "MIC", "MODEL__MIC__STUDENT": "SemanticSegmentor",
        "MODEL__MIC__SEM_SEG": {"MARGINS": list(margins)}, "DATASETS__TARGET": ["target_train"],
        "INPUT__MIN_SIZE_TRAIN": [60, 120, 210], "INPUT__MAX_SIZE_TRAIN": 1000, **keys,
    }  # fmt: skip
    return load(folder, tiny_config(folder, **keys))


@pytest.fixture
def record(tmp_path):
    """An image whose pixels tell where they are: red is the column, green the row."""
    rows, columns = np.indices((H, W))
    write_image(tmp_path / "places.png", np.stack([columns, rows, np.zeros_like(rows)], axis=2).astype(np.uint8))
    return {"file_name": str(tmp_path / "places.png"), "image_id": 1, "height": H, "width": W}


def by_brute_force(image, margins):
    """From the colours of a view: whether each pixel comes from inside the margins, and whether that is certain."""
    x, y = image[0].float(), image[1].float()
    top, bottom, left, right = margins
    # signed distance to the nearest margin, of pixels' centres; resizing may be off by one pixel of the original
    depth = torch.stack([x - (left - 0.5), W - right - 0.5 - x, y - (top - 0.5), H - bottom - 0.5 - y]).amin(dim=0)
    return depth > 0, depth.abs() > 1.6


CROP = {"INPUT__CROP": {"ENABLED": True, "TYPE": "relative_range", "SIZE": [0.5, 0.5]}}
VERTICAL = {"INPUT__RANDOM_FLIP": "vertical"}


@pytest.mark.parametrize("margins", [PIXELS, SHARES], ids=["pixels", "shares"])
@pytest.mark.parametrize("keys", [{}, CROP, {**CROP, **VERTICAL}], ids=["scales", "crops", "vertical flips"])
def test_margins_go_where_crops_scales_and_flips_bring_them(record, tmp_path, margins, keys):
    mapper = DomainMapper(config(tmp_path, margins, **keys), True, "target")
    plain = DomainMapper(config(tmp_path, (0, 0, 0, 0), **keys), True, "target")
    sizes, flipped, hidden = set(), set(), []
    for seed in range(25):
        seed_all_rng(seed)
        mapped = mapper(record)
        seed_all_rng(seed)
        without = plain(record)
        assert torch.equal(mapped["image"], without["image"]), "margins draw no random number"
        assert "valid_pixels" not in without
        valid = mapped["valid_pixels"]
        assert valid.dtype == torch.bool and valid.shape == mapped["image"].shape[1:]
        expected, certain = by_brute_force(mapped["image"], PIXELS)
        assert certain.float().mean() > 0.85
        assert torch.equal(valid[certain], expected[certain])
        sizes.add(tuple(valid.shape))
        first, last = mapped["image"][:, 0, 0].int(), mapped["image"][:, -1, -1].int()
        flipped.add(bool((first > last).any()))
        hidden.append(1 - valid.float().mean().item())
    assert len(sizes) >= 3 and flipped == {True, False}
    assert all(h > 0 for h in hidden) if not keys else max(hidden) - min(hidden) > 0.2


def test_the_whole_image_as_it_is(record, tmp_path):
    expected = torch.zeros(H, W, dtype=torch.bool)
    expected[12 : H - 30, 10 : W - 20] = True
    keys = {"INPUT__MIN_SIZE_TEST": H, "INPUT__MAX_SIZE_TEST": W}
    for margins in (PIXELS, SHARES):
        cfg = config(tmp_path, margins, **keys)
        for mapper in (DomainMapper(cfg, False, "target"), DomainMapper.with_truth(cfg)):  # those of pictures
            assert torch.equal(mapper(record)["valid_pixels"], expected)
        assert "valid_pixels" not in DomainMapper(cfg, False)(record)
        assert "valid_pixels" not in DomainMapper(cfg, True, "source")(record)
    cfg = config(tmp_path, PIXELS, MODEL__MIC__STUDENT="GeneralizedRCNN")
    assert "valid_pixels" not in DomainMapper(cfg, True, "target")(record), "of label maps alone"


def test_margins_that_leave_nothing_are_refused_with_the_image(record, tmp_path):
    mapper = DomainMapper(config(tmp_path, (60, 60, 0, 0)), True, "target")
    with pytest.raises(DataError, match=r"places.png: MODEL.MIC.SEM_SEG.MARGINS \(60, 60, 0, 0\) .* 120 rows"):
        mapper(record)
    one_row = DomainMapper(config(tmp_path, (60, 59, 0, 0), INPUT__MIN_SIZE_TRAIN=[H]), True, "target")
    assert one_row(record)["valid_pixels"].sum() == W
