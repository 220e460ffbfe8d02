"""The miniature city: street scenes made by rules, laid out on disk as Cityscapes is."""

from ...errors import MinicityError
from .folder import MINICITY_VERSION
from .scene import Scene, render_scene
from .writer import make_minicity

__all__ = ["MINICITY_VERSION", "MinicityError", "Scene", "make_minicity", "render_scene"]
