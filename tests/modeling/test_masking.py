"""Patch masks and colour changes."""

import math

import pytest
import torch
from detectron2.structures import ImageList
from hypothesis import given, settings
from hypothesis import strategies as st

from mic_det.modeling.masking import (
    PatchMask,
    RandomErasing,
    StrongAugmentation,
    random_patch_mask,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_hidden_share_is_the_ratio_within_four_standard_deviations():
    for ratio in (0.3, 0.5, 0.7):
        mask = random_patch_mask([(320, 640)] * 20, (320, 640), 32, ratio, generator=generator())
        patches = 20 * 10 * 20
        assert abs((1 - mask.mean().item()) - ratio) < 4 * math.sqrt(ratio * (1 - ratio) / patches)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(0, 5), st.integers(0, 5), st.integers())
def test_mask_is_a_grid_of_rounded_size_spread_by_nearest_neighbour(h, w, block, pad_h, pad_w, seed):
    ratio, seed = 0.5, seed % 2**31
    mask = random_patch_mask([(h, w)], (h + pad_h, w + pad_w), block, ratio, generator=generator(seed))
    assert mask.shape == (1, 1, h + pad_h, w + pad_w)
    rows, columns = max(1, round(h / block)), max(1, round(w / block))
    u = torch.rand(1, 1, rows, columns, generator=generator(seed))[0, 0]
    for y in range(h):
        for x in range(w):
            # exact integer arithmetic for the patch that pixel (x, y) belongs to
            assert mask[0, 0, y, x].item() == float(u[y * rows // h, x * columns // w] > ratio)
    assert (mask[0, 0, h:] == 1).all() and (mask[0, 0, :, w:] == 1).all()  # padding stays


def test_a_batch_of_unequal_sizes_equals_the_images_one_by_one():
    sizes = [(40, 70), (64, 64), (33, 96)]
    batch = random_patch_mask(sizes, (64, 96), 16, 0.5, generator=generator(7))
    g = generator(7)
    for i, (h, w) in enumerate(sizes):
        alone = random_patch_mask([(h, w)], (h, w), 16, 0.5, generator=g)
        assert torch.equal(batch[i, :, :h, :w], alone[0])


def test_ratio_zero_hides_nothing_and_the_default_generator_is_used():
    assert (random_patch_mask([(64, 64)] * 50, (64, 64), 2, 0.0) == 1).all()
    torch.manual_seed(3)
    a = random_patch_mask([(64, 64)], (64, 64), 8, 0.5)
    b = random_patch_mask([(64, 64)], (64, 64), 8, 0.5)
    torch.manual_seed(3)
    assert torch.equal(a, random_patch_mask([(64, 64)], (64, 64), 8, 0.5)) and not torch.equal(a, b)


@pytest.mark.parametrize("sizes, block, ratio", [([(8, 8)], 4, 1.0), ([(8, 8)], 4, -0.1), ([(8, 8)], 0, 0.5),
                                                 ([(9, 8)], 4, 0.5), ([(0, 8)], 4, 0.5), ([(8, 8)], [4, 4], 0.5),
                                                 ([(8, 8)], [0], 0.5)])  # fmt: skip
def test_mask_refusals(sizes, block, ratio):
    with pytest.raises(ValueError):
        random_patch_mask(sizes, (8, 8), block, ratio)


@pytest.mark.parametrize("sizes, by_hand", [([(360, 480), (800, 1600)], [14, 32]), ([(20, 500), (192, 384)], [1, 8])])
def test_patches_fit_the_short_side_of_each_image(sizes, by_hand):
    """0.04 of it, as the published 32 of 800; each image equals the same image alone with patches of that size."""
    images = ImageList(torch.zeros(2, 3, 800, 1600), sizes)
    masks, g = PatchMask()(images, generator(5)), generator(5)
    for mask, (h, w), block in zip(masks, sizes, by_hand):
        alone = random_patch_mask([(h, w)], (800, 1600), block, 0.5, generator=g)
        assert torch.equal(mask, alone[0])
    one_size = PatchMask(16, 0.3)(images, generator(5))
    assert torch.equal(one_size, random_patch_mask(sizes, (800, 1600), 16, 0.3, generator=generator(5)))


def test_a_share_of_the_views_is_masked_with_the_patches_that_they_would_have_had():
    images = ImageList(torch.zeros(400, 3, 32, 32), [(32, 32)] * 400)
    all_masked, some = (PatchMask(8, 0.5, prob=p)(images, generator(2)) for p in (1.0, 0.3))
    whole = (some == 1).flatten(1).all(dim=1)
    assert torch.equal(some[~whole], all_masked[~whole])
    assert abs((~whole).float().mean().item() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 400)
    assert torch.equal(PatchMask(8, 0.5, prob=0.0)(images, generator(2)), torch.ones_like(some))
    torch.manual_seed(4)
    a = PatchMask(8, 0.5, prob=0.3)(images)
    assert not torch.equal(a, PatchMask(8, 0.5, prob=0.3)(images)), "drawn anew"
    torch.manual_seed(4)
    assert torch.equal(a, PatchMask(8, 0.5, prob=0.3)(images))


def test_a_probability_of_1_leaves_all_random_numbers_as_they_were():
    images = ImageList(torch.zeros(2, 3, 64, 96), [(64, 96), (40, 50)])
    torch.manual_seed(0)
    mask = PatchMask(16, 0.5)(images)
    after = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(mask, random_patch_mask(images.image_sizes, (64, 96), 16, 0.5))
    assert torch.equal(after, torch.rand(3))


def test_patch_sizes_in_words():
    assert PatchMask().describe((192, 800)) == (
        "0.5 of the patches are hidden, of 8 pixels at a short side of 192 and 32 pixels at a short side of 800"
    )
    assert (
        PatchMask(16, 0.3, prob=0.5).describe((0,))
        == "0.3 of the patches are hidden, of 16 pixels, in 0.5 of the views"
    )
    assert PatchMask().describe((0,)) == "0.5 of the patches are hidden, of 0.04 of the short side"
    assert PatchMask(ratio=0.0).describe((192,)) == "no patch is hidden"


def view(jitter=0.2, jitter_prob=1.0, sigma=(0.15, 1.15), blur_prob=1.0, channels="RGB"):
    return StrongAugmentation(jitter, jitter_prob, sigma, blur_prob, channels)


def test_no_probability_leaves_the_image_as_it_is():
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    torch.testing.assert_close(view(jitter_prob=0, blur_prob=0)(image), image.float())


def test_bgr_and_rgb_images_get_the_same_colours():
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    torch.manual_seed(1)
    rgb = view(channels="RGB")(image)
    torch.manual_seed(1)
    bgr = view(channels="BGR")(image.flip(0))
    torch.testing.assert_close(bgr.flip(0), rgb)


def test_each_call_draws_anew_and_stays_in_range():
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    views = [view()(image) for _ in range(8)]
    assert all(0 <= v.min() and v.max() <= 255 for v in views)
    assert all(not torch.allclose(views[0], v) for v in views[1:])


def test_share_of_jittered_images_is_the_probability():
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    strong = view(jitter_prob=0.8, blur_prob=0)
    changed = sum(not torch.allclose(strong(image), image.float()) for _ in range(400))
    assert abs(changed / 400 - 0.8) < 4 * math.sqrt(0.16 / 400)


def test_blur_is_a_gaussian_of_a_sigma_in_range_within_each_channel():
    impulse = torch.zeros(3, 41, 41)
    impulse[1, 20, 20] = 255
    for _ in range(10):
        blurred = view(jitter_prob=0, sigma=(0.8, 1.15))(impulse)
        assert blurred[0].abs().max() == 0 and blurred[2].abs().max() == 0  # channels are not mixed
        weights = blurred[1] / blurred[1].sum()
        x = torch.arange(41.0) - 20
        variance = (weights.sum(0) * x**2).sum().item()
        assert 0.8**2 * 0.97 < variance < 1.15**2 * 1.03
        assert torch.argmax(blurred[1]) == 20 * 41 + 20  # geometry is unchanged


def test_one_strength_is_that_strength_for_all_with_the_same_random_numbers():
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    seen = []
    for strengths in (0.2, [0.2] * 4):
        torch.manual_seed(6)
        seen += [(view(strengths, jitter_prob=0.8, blur_prob=0.5)(image), torch.rand(2))]
    assert torch.equal(seen[0][0], seen[1][0]) and torch.equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_each_strength_changes_its_own_property_alone(channels):
    """Per pixel: brightness scales all channels alike, contrast moves them to the mean of the grey image, ..."""
    image = torch.randint(40, 200, (3, 12, 16), generator=generator(1)).float()
    red = 0 if channels == "RGB" else 2
    luma = 0.2989 * image[red] + 0.587 * image[1] + 0.114 * image[2 - red]

    def changed(*strengths):
        return view(strengths, blur_prob=0, channels=channels)(image)

    for _ in range(5):
        factors = changed(0.2, 0, 0, 0) / image
        assert factors.max() - factors.min() < 1e-4 and 0.8 <= factors.mean() <= 1.2
        for strengths, centre in (((0, 0.2, 0, 0), luma.mean()), ((0, 0, 0.2, 0), luma)):
            seen = changed(*strengths)
            inside = (seen > 1) & (seen < 254) & ((image - centre).abs() > 5)  # not cut off
            factors = ((seen - centre) / (image - centre))[inside]
            assert factors.max() - factors.min() < 1e-2 and 0.79 <= factors.mean() <= 1.21
        seen = changed(0, 0, 0, 0.1)  # another hue: the same largest and smallest channel of a pixel
        torch.testing.assert_close(seen.amax(dim=0), image.amax(dim=0), rtol=0, atol=0.05)
        torch.testing.assert_close(seen.amin(dim=0), image.amin(dim=0), rtol=0, atol=0.05)


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_grayscale_is_the_luma_in_all_channels_as_often_as_asked(channels):
    image = torch.randint(0, 256, (3, 6, 8), dtype=torch.uint8, generator=generator(3))
    red, green, blue = image.float() if channels == "RGB" else image.float().flip(0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    gray = StrongAugmentation(0.0, 0.0, (0.15, 1.15), 0.0, channels, grayscale_prob=0.2)
    changed = 0
    for _ in range(400):
        seen = gray(image)
        if torch.allclose(seen, image.float(), atol=1e-3):
            continue
        changed += 1
        torch.testing.assert_close(seen, luma.expand(3, -1, -1), rtol=0, atol=0.05)
    assert abs(changed / 400 - 0.2) < 4 * math.sqrt(0.16 / 400)


def test_an_erased_rectangle_has_the_colour_asked_for_and_a_share_within_the_range():
    image, colour = torch.full((3, 90, 120), 7.0), [101.5, 102.5, 103.5]
    erase, erased = RandomErasing(0.7, (0.05, 0.2), colour), 0
    for _ in range(300):
        seen = erase(image)
        hidden = (seen != image).all(dim=0)
        assert torch.equal(seen[:, ~hidden], image[:, ~hidden])
        if not hidden.any():
            continue
        erased += 1
        rows, columns = hidden.any(dim=1).nonzero()[:, 0], hidden.any(dim=0).nonzero()[:, 0]
        h, w = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert hidden.sum() == h * w, "a rectangle"
        half = 0.5 * (h + w) + 0.25  # pixels that rounding both sides to whole ones may add or take
        assert 0.05 * image[0].numel() - half <= h * w <= 0.2 * image[0].numel() + half
        assert torch.equal(seen[:, hidden], torch.tensor(colour)[:, None].expand(-1, h * w))
    assert abs(erased / 300 - 0.7) < 4 * math.sqrt(0.21 / 300)
    assert torch.equal(image, torch.full((3, 90, 120), 7.0)), "not in place"
