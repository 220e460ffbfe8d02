"""Labelled source images in the colours of the target."""

import torch


class ColourTransfer:
    """Gives source images the brightness, contrast and tint of target images (after Reinhard et al., 2001).

    Each colour channel of a source image is scaled and shifted: its mean and standard deviation move towards those of
    the same channel of a target image. Reinhard et al. do this in a decorrelated colour space, and all the way. Here
    the channels are the image's own, and the share of the way is random, so that the student sees the domains between
    source and target, too. Geometry and labels stay as they are.

    Args:
        prob (float): share of source images that are changed, in [0, 1].
    """

    def __init__(self, prob):
        self.prob = prob

    @torch.no_grad()
    def __call__(self, source, target, device):
        """
        Args:
            source, target (list[dict]): inputs of a model with ``"image"`` (C, H, W) in [0, 255], of any size. Target
                images may have ``"valid_pixels"`` (H, W): the colours of other pixels do not count.
            device (torch.device): where the images are changed.

        Returns:
            list[dict]: the source inputs. Changed images are float32 in [0, 255]; without target images, none is.
        """
        return [self._changed(x, target, device) if target and torch.rand(()) < self.prob else x for x in source]

    @staticmethod
    def _changed(x, target, device):
        image = x["image"].to(device).float()
        mean, std = channel_statistics(image.flatten(1))
        goal_mean, goal_std = _statistics_of(target[int(torch.randint(len(target), ()))], device)
        share = torch.rand((), device=device)
        scale = torch.lerp(std, goal_std, share) / std
        changed = (image - mean[..., None]) * scale[..., None] + torch.lerp(mean, goal_mean, share)[..., None]
        return {**x, "image": changed.clamp_(0, 255)}


def channel_statistics(pixels):
    """Mean and standard deviation of each channel of pixels (C, N), each (C, 1).

    The deviation is at least 1 grey level, so that a channel of one colour can be divided by it.
    """
    std, mean = torch.std_mean(pixels, dim=1, correction=0, keepdim=True)
    return mean, std.clamp(min=1.0)


def _statistics_of(x, device):
    pixels = x["image"].to(device).float().flatten(1)
    valid = x.get("valid_pixels")
    if valid is not None and valid.any():
        pixels = pixels[:, valid.to(device).flatten()]
    return channel_statistics(pixels)
