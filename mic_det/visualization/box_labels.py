"""Names as users write them, in pictures: in a font that has their characters."""

import functools
import logging
import unicodedata

import cv2
import matplotlib.font_manager
import numpy as np

NO_CHARACTER = "\U0010fffd"  # for private use: no font has it, so its picture is that of a missing character
PAD = 2  # pixels of black around a label


def columns(text):
    """Width of a text in narrow characters: those of East Asia are about as wide as 1.6 of them."""
    return sum(1.6 if unicodedata.east_asian_width(c) in "WF" else 1.0 for c in text)


def literal(text):
    """Text for Matplotlib, which takes what is between two dollar signs for mathematics."""
    return text.replace("$", r"\$")


def in_default_font(text):
    """Whether Matplotlib's default font has all characters."""
    font = _default_font()
    return all(font.get_char_index(ord(c)) or unicodedata.category(c) in ("Cc", "Cf") for c in text)


@functools.cache
def _default_font():
    family = matplotlib.font_manager.FontProperties(family=["sans-serif"])
    return matplotlib.font_manager.get_font(matplotlib.font_manager.findfont(family))


@functools.cache
def _wide_font():
    """The font of many scripts that OpenCV 5 ships; None in OpenCV 4."""
    try:
        return cv2.FontFace("uni")
    except (AttributeError, cv2.error):
        return None


@functools.lru_cache(maxsize=4096)
def in_wide_font(text):
    """Whether OpenCV's font has all characters: one that it lacks looks like any other that it lacks."""
    if _wide_font() is None:
        return False
    missing = _picture_of(NO_CHARACTER)
    return not any((_picture_of(c) == missing).all() for c in set(text) if not c.isspace())


def _picture_of(character):
    canvas = np.zeros((64, 64, 3), np.uint8)
    cv2.putText(canvas, character, (8, 48), (255, 255, 255), _wide_font(), 32)
    return canvas


@functools.cache
def shown_name(name, number):
    """A class's name, or "class 3" where no font has it: which is told once for each name.

    Args:
        name (str): as the data set calls the class.
        number (int): of the class, from 0.
    """
    if in_default_font(name) or in_wide_font(name):
        return name
    instead = f"class {number}"
    logging.getLogger(__name__).warning(
        "No font for the class name %s: pictures show it as %r%s.", name, instead,
        "" if _wide_font() else ". opencv-python-headless 5 ships one for many scripts",
    )  # fmt: skip
    return instead


def put_label(image, text, place, height, color):
    """Write a label in OpenCV's font into an (H, W, 3) uint8 image, in place.

    Args:
        place ((x, y)): its upper left corner.
        height (float): of the text, in pixels.
        color (3 floats): in [0, 1], in the order of the image's channels.
    """
    size, x, y = max(8, round(height)), round(place[0]), round(place[1])
    left, top, wide, high = cv2.getTextSize((image.shape[1], image.shape[0]), text, (x, y), _wide_font(), size)
    origin = x + x - left + PAD, y + y - top + PAD
    corner = x + wide + 2 * PAD, y + high + 2 * PAD
    black = image[max(0, y) : corner[1], max(0, x) : corner[0]]
    black[:] = np.rint(black * 0.2)
    cv2.putText(image, text, origin, [round(255 * float(c)) for c in color], _wide_font(), size)
