"""Random patch masks and the colour changes of the student's view (MIC, Sec. 3.1)."""

import math
from numbers import Real

import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from ..config.label_kinds import mask_keys


def random_patch_mask(image_sizes, padded_size, block_size, ratio, *, generator=None, device=None):
    """Draw one patch mask for each image of a padded batch (MIC, Eq. 4).

    Each image of height h and width w gets its own grid of round(h / b) x round(w / b) patches (at
    least 1 x 1). A patch is kept where u ~ U(0, 1) exceeds ``ratio``. The grid is spread over the
    image by nearest neighbour. Padding is never hidden and never counted.

    Args:
        image_sizes (sequence of (h, w)): the images' sizes in pixels, without padding.
        padded_size ((H, W)): the batch's size in pixels; no image may exceed it.
        block_size (int or sequence of int): patch side b in pixels, at least 1; one for all images or one for each.
        ratio (float): share r of hidden patches, in [0, 1).
        generator (torch.Generator): source of randomness; the default generator if None.
        device: device of the mask.

    Returns:
        Tensor: float, (N, 1, H, W), 1 = visible, 0 = hidden.

    Raises:
        ValueError: for a ratio outside [0, 1), a block size below 1, or an image that is larger than
            the padded size or empty.
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"ratio must be in [0, 1), got {ratio}")
    block_sizes = [block_size] * len(image_sizes) if isinstance(block_size, Real) else list(block_size)
    if len(block_sizes) != len(image_sizes) or any(b < 1 for b in block_sizes):
        raise ValueError(f"block_size must be at least 1 pixel, one number or one for each image, got {block_size}")
    padded_height, padded_width = padded_size
    draw_device = device if generator is None else generator.device
    mask = torch.ones(len(image_sizes), 1, padded_height, padded_width, device=device)
    for i, ((height, width), b) in enumerate(zip(image_sizes, block_sizes)):
        if not (0 < height <= padded_height and 0 < width <= padded_width):
            raise ValueError(f"image {i} is {height} x {width}, which does not fit {tuple(padded_size)}")
        grid_size = (max(1, round(height / b)), max(1, round(width / b)))
        u = torch.rand(1, 1, *grid_size, generator=generator, device=draw_device)
        if ratio > 0:  # u can be exactly 0, and ratio 0 promises to hide nothing
            keep = (u > ratio).to(device=mask.device, dtype=mask.dtype)
            mask[i, :, :height, :width] = F.interpolate(keep, size=(height, width), mode="nearest")[0]
    return mask


class PatchMask:
    """The patch mask of a batch: :func:`random_patch_mask` with a patch size for each image."""

    def __init__(self, block_size=0, ratio=0.5, block_share=0.04, prob=1.0):
        """
        Args:
            block_size (int): patch side b in pixels; 0 = use ``block_share``.
            ratio (float): share r of hidden patches, in [0, 1).
            block_share (float): patch side as a share of each image's short side, in (0, 1].
            prob (float): probability that an image is masked, in [0, 1]; the other images are whole.
        """
        self.block_size, self.ratio, self.block_share, self.prob = block_size, ratio, block_share, prob

    @classmethod
    def from_config(cls, cfg):
        """The mask of the views of a config's model."""
        keys = mask_keys(cfg)
        return cls(keys.BLOCK_SIZE, keys.RATIO, keys.BLOCK_SHARE, keys.PROB)

    def block_size_of(self, short_side):
        """Patch side in pixels for an image whose shorter side has this number of pixels."""
        return self.block_size or max(1, round(self.block_share * short_side))

    def __call__(self, images, generator=None):
        """The mask (N, 1, H, W) of an ``ImageList``, on its device."""
        device = images.tensor.device
        mask = random_patch_mask(
            images.image_sizes, images.tensor.shape[-2:], [self.block_size_of(min(x)) for x in images.image_sizes],
            self.ratio, generator=generator, device=device,
        )  # fmt: skip
        if self.prob == 1:
            return mask
        u = torch.rand(len(mask), 1, 1, 1, generator=generator, device=generator.device if generator else device)
        return torch.where((u < self.prob).to(device), mask, torch.ones_like(mask))

    def describe(self, short_sides):
        """The patch size in words, for images of these short sides in pixels (0 = any)."""
        if not self.ratio or not self.prob:
            return "no patch is hidden"
        sizes = [f"{self.block_size_of(x)} pixels at a short side of {x}" for x in short_sides if x]
        general = f"{self.block_size} pixels" if self.block_size else f"{self.block_share:.3g} of the short side"
        return f"{self.ratio:.3g} of the patches are hidden, of {' and '.join(sizes) or general}" + (
            f", in {self.prob:.3g} of the views" if self.prob < 1 else ""
        )


class StrongAugmentation(torch.nn.Module):
    """Colour jitter, grayscale and Gaussian blur of one image, without changes of geometry (MIC, Sec. 4.1).

    Each call draws new values from the default generator. The image stays on its device.
    """

    def __init__(self, jitter_strength, jitter_prob, blur_sigma, blur_prob, channels="BGR", grayscale_prob=0.0):
        """
        Args:
            jitter_strength (float or sequence): ranges of brightness, contrast, saturation and hue: one number in
                [0, 0.5] for all, or four numbers; that of the hue is at most 0.5.
            jitter_prob (float): share of images that are jittered, in [0, 1].
            blur_sigma ((float, float)): range of the blur's sigma, in pixels.
            blur_prob (float): share of images that are blurred, in [0, 1].
            channels (str): order of the image's colour channels, "BGR" or "RGB".
            grayscale_prob (float): share of images that become grey, in [0, 1].
        """
        super().__init__()
        if channels not in ("BGR", "RGB"):
            raise ValueError(f"INPUT.FORMAT is {channels!r}: colour changes need 'BGR' or 'RGB'")
        self.reverse_channels = channels == "BGR"
        strengths = (jitter_strength,) * 4 if isinstance(jitter_strength, Real) else tuple(jitter_strength)
        # torchvision's kernel is fixed while sigma varies: 3 sigma of the widest blur on each side
        kernel = 2 * math.ceil(3 * blur_sigma[1]) + 1
        # for RGB images; a change that is off draws no random number
        self.colours = torch.nn.Sequential()
        if any(strengths):
            self.colours.append(v2.RandomApply([v2.ColorJitter(*strengths)], p=jitter_prob))
        if grayscale_prob:
            self.colours.append(v2.RandomGrayscale(grayscale_prob))
        self.blur = v2.RandomApply([v2.GaussianBlur(kernel, tuple(blur_sigma))], p=blur_prob)

    @torch.no_grad()
    def forward(self, image):
        """
        Args:
            image (Tensor): (3, H, W), uint8, or float in [0, 255].

        Returns:
            Tensor: same shape; float32 in [0, 255].
        """
        view = image.float() / 255  # torchvision takes float images in [0, 1]
        if len(self.colours):
            view = view.flip(0) if self.reverse_channels else view
            view = self.colours(view)
            view = view.flip(0) if self.reverse_channels else view
        return self.blur(view) * 255


class RandomErasing(torch.nn.Module):
    """Sets a random rectangle of an image to one colour (Zhong et al., AAAI 2020). Target images have the patch mask.

    Each call draws a new rectangle from the default generator. Geometry does not change.
    """

    def __init__(self, prob, area, colour):
        """
        Args:
            prob (float): share of images with an erased rectangle, in [0, 1].
            area ((float, float)): range of the rectangle's share of the image's pixels, in (0, 1].
            colour (sequence of 3 floats): in the image's range and order of channels. Use the mean for images that are
                normalised afterwards: hidden patches have it, too.
        """
        super().__init__()
        self.erase = v2.RandomErasing(prob, tuple(area), value=list(colour))

    @torch.no_grad()
    def forward(self, image):
        """A float image (3, H, W), erased or unchanged."""
        return self.erase(image)
