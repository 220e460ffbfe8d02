"""The miniature city: street scenes made by rules, laid out on disk as Cityscapes is."""

from .scene import Scene, render_scene
from .writer import MINICITY_VERSION, MinicityError, make_minicity

__all__ = ["MINICITY_VERSION", "MinicityError", "Scene", "make_minicity", "render_scene"]
