"""Label maps in Cityscapes' colours."""

import numpy as np

# Cityscapes' colours of the train ids 0 to 18
CITYSCAPES_COLORS = np.array(
    [(128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
     (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
     (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32)], np.uint8
)  # fmt: skip


def color_labels(labels, ignore_value=255):
    """Labels (H, W) -> RGB (H, W, 3) uint8; ignored pixels are black, classes beyond 19 repeat the colours."""
    labels = np.asarray(labels)
    picture = CITYSCAPES_COLORS[labels % len(CITYSCAPES_COLORS)]
    picture[labels == ignore_value] = 0
    return picture


def overlay_labels(rgb, labels, ignore_value=255):
    """An RGB image (H, W, 3) uint8 with the colours of its labels (H, W) laid over it, half each."""
    return ((rgb.astype(np.uint16) + color_labels(labels, ignore_value)) // 2).astype(np.uint8)
