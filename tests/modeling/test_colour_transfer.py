"""Source images in the colours of the target: statistics computed by numpy."""

import numpy as np
import pytest
import torch

from mic_det.modeling.colour_transfer import ColourTransfer

CPU = torch.device("cpu")


def image(low, high, size=(30, 40), seed=0):
    return torch.randint(low, high, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def statistics(x):
    return np.asarray(x, np.float64).mean((1, 2)), np.asarray(x, np.float64).std((1, 2))


def test_each_channel_moves_one_random_share_of_the_way_to_the_targets_mean_and_deviation():
    source = torch.stack([image(20 + 10 * c, 200, seed=c)[0] for c in range(3)])
    target = torch.stack([image(90, 140 + 10 * c, size=(18, 25), seed=9 + c)[0] for c in range(3)])
    (mean, std), (goal_mean, goal_std) = statistics(source), statistics(target)
    shares = []
    for _ in range(50):
        (seen,) = ColourTransfer(1.0)([{"image": source, "height": 30}], [{"image": target}], CPU)
        assert seen["height"] == 30 and seen["image"].dtype == torch.float32
        new_mean, new_std = statistics(seen["image"])
        share = (new_mean - mean) / (goal_mean - mean)
        assert np.ptp(share) < 1e-3, "one share for all channels"
        np.testing.assert_allclose(new_std, std + share * (goal_std - std), rtol=1e-3)
        correlation = np.corrcoef(seen["image"][0].flatten(), source[0].float().flatten())[0, 1]
        assert correlation > 0.9999, "pixels keep their places"
        shares.append(share[0])
    assert min(shares) < 0.1 and max(shares) > 0.9
    assert torch.equal(source, torch.stack([image(20 + 10 * c, 200, seed=c)[0] for c in range(3)])), "not in place"


def test_as_many_images_change_as_asked_and_each_target_image_is_used():
    source, targets = [{"image": image(0, 256)}] * 400, [{"image": image(0, 30)}, {"image": image(226, 256)}]
    before = source[0]["image"].float().mean()
    means = torch.stack([x["image"].float().mean() for x in ColourTransfer(0.6)(source, targets, CPU)])
    darker, brighter = (means < before - 1e-3).sum().item(), (means > before + 1e-3).sum().item()
    assert abs((darker + brighter) / 400 - 0.6) < 4 * (0.24 / 400) ** 0.5
    assert abs(darker / (darker + brighter) - 0.5) < 4 * (0.25 / 240) ** 0.5


def test_margins_do_not_count():
    target, valid = image(100, 120), torch.zeros(30, 40, dtype=torch.bool)
    target[:, :, 20:], valid[:, :20] = 255, True
    for _ in range(20):
        (seen,) = ColourTransfer(1.0)([{"image": image(0, 100)}], [{"image": target, "valid_pixels": valid}], CPU)
        assert seen["image"].mean() < 115


@pytest.mark.parametrize("colour", [0, 77, 255])
def test_images_of_one_colour_stay_finite(colour):
    flat = {"image": torch.full((3, 8, 8), colour, dtype=torch.uint8)}
    for source, target in ((flat, {"image": image(0, 256)}), ({"image": image(0, 256)}, flat), (flat, flat)):
        (seen,) = ColourTransfer(1.0)([source], [target], CPU)
        assert torch.isfinite(seen["image"]).all() and 0 <= seen["image"].min() and seen["image"].max() <= 255


def test_without_target_images_nothing_changes():
    source = [{"image": image(0, 256)}]
    assert ColourTransfer(1.0)(source, [], CPU)[0] is source[0]
