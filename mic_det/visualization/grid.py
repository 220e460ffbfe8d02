"""Panels as a grid that fits a screen."""

import cv2

from .panels import text_height
from .sheet import caption_height, contact_sheet

SCREEN = (1920, 1000)  # pixels: full HD without the bars of a window
LEGIBLE = 11  # pixels; labels stay at least as high


def panel_grid(panels, screen=SCREEN, columns=None, labels=True):
    """Join the panels of one image into a picture that fits a screen.

    The number of columns is that which shows the panels largest on the screen. Panels are made smaller to fit it, but
    only as long as the labels in them stay legible: many panels, or wide ones, give a larger picture of the same shape.

    Args:
        panels (list[(str, ndarray)]): captions and pictures (H, W, 3), RGB uint8, as of :func:`mic_panels`; all get
            the room of the first one.
        screen ((width, height)): pixels.
        columns (int): of the grid; None = as above.
        labels (bool): whether there are labels in the panels, which have to stay legible.

    Returns:
        ndarray: RGB uint8.
    """
    height, width = panels[0][1].shape[:2]
    columns = columns or grid_columns(len(panels), width, height, screen)
    least = LEGIBLE / text_height(width) if labels else 0.0
    scale = min(1.0, max(_fit(columns, len(panels), width, height, screen), least))
    if scale < 1:
        panels = [(text, _resized(picture, scale)) for text, picture in panels]
    return contact_sheet([panels], columns)


def grid_columns(count, width, height, screen=SCREEN):
    """The number of columns with which ``count`` panels of ``width`` x ``height`` pixels are largest on the screen."""
    # of equal ones the more even grid, which leaves fewer places empty
    return max(range(1, count + 1), key=lambda n: (_fit(n, count, width, height, screen), -(-count % n)))


def _fit(columns, count, width, height, screen):
    """The largest scale of panels with which the grid and its captions fit the screen; may be above 1."""
    rows = -(-count // columns)
    scale = min(screen[0] / (columns * width), screen[1] / (rows * height))
    room = screen[1] - rows * caption_height(width * scale)  # captions do not shrink as panels do
    return min(screen[0] / (columns * width), max(room, 1) / (rows * height))


def _resized(picture, scale):
    size = max(1, int(picture.shape[1] * scale)), max(1, int(picture.shape[0] * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
