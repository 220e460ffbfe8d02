"""The camera of the miniature city: a pinhole above a flat ground."""

from dataclasses import dataclass

import numpy as np

FAR = 400.0  # metres; the sky's depth


@dataclass(frozen=True)
class Camera:
    """Pinhole camera. World: X right, Y up from the ground, Z ahead, in metres; pixels: u right, v down."""

    width: int
    height: int
    cam_height: float = 1.45
    baseline: float = 0.22

    @property
    def f(self):
        """Focal length in pixels; the field of view is about Cityscapes'."""
        return 1.1 * self.width

    @property
    def u0(self):
        return self.width / 2

    @property
    def v0(self):
        """Row of the horizon."""
        return 0.42 * self.height

    def project(self, x, y, z):
        """World point(s) -> pixel coordinates (u, v)."""
        return self.u0 + self.f * np.asarray(x) / z, self.v0 - self.f * (np.asarray(y) - self.cam_height) / z

    def ground(self):
        """World X and Z of the ground seen in each pixel, (H, W) each; Z is ``FAR`` above the horizon."""
        v, u = np.mgrid[: self.height, : self.width].astype(np.float64) + 0.5
        with np.errstate(divide="ignore"):
            z = np.where(v > self.v0, self.f * self.cam_height / np.maximum(v - self.v0, 1e-6), FAR)
        z = np.minimum(z, FAR)
        return (u - self.u0) * z / self.f, z

    def as_cityscapes(self):
        """The content of a Cityscapes ``*_camera.json``."""
        return {
            "extrinsic": {"baseline": self.baseline, "pitch": 0.0, "roll": 0.0, "x": 0.0, "y": 0.0, "yaw": 0.0,
                          "z": self.cam_height},
            "intrinsic": {"fx": self.f, "fy": self.f, "u0": self.u0, "v0": self.v0},
        }  # fmt: skip
