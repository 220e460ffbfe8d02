"""Keypoints for the coloured rectangles of :func:`helpers.data.write_two_domains`, and a small Keypoint R-CNN."""

import json
from pathlib import Path

NAMES = ("middle", "left_end", "right_end")
SIGMAS = [0.05, 0.05, 0.05]
HEAD = {
    "MODEL__KEYPOINT_ON": True,
    "MODEL__ROI_KEYPOINT_HEAD__NUM_KEYPOINTS": 3,
    "MODEL__ROI_KEYPOINT_HEAD__POOLER_RESOLUTION": 3,
    "MODEL__ROI_KEYPOINT_HEAD__CONV_DIMS": [8],
    "MODEL__ROI_KEYPOINT_HEAD__MIN_KEYPOINTS_PER_IMAGE": 0,
    "TEST__KEYPOINT_OKS_SIGMAS": SIGMAS,
}


def keypoints_of(box):
    """Of a box (x, y, w, h): its middle, which is covered, and points near the ends of its diagonal, in COCO's form."""
    x, y, w, h = box
    points = [(x + w / 2, y + h / 2, 1), (x + w * 0.9, y + h * 0.9, 2), (x + w * 0.1, y + h * 0.1, 2)]
    return [v for px, py, visibility in points for v in (px - 0.5, py - 0.5, visibility)]


def add_keypoints(file, classes=("red", "green")):
    """Give the boxes of some classes of a COCO file keypoints; returns the content."""
    content = json.loads(Path(file).read_text())
    numbers = [c["id"] for c in content["categories"] if c["name"] in classes]
    for category in content["categories"]:
        if category["id"] in numbers:
            category.update(keypoints=list(NAMES), skeleton=[[2, 1], [1, 3]])
    for a in content["annotations"]:
        if a["category_id"] in numbers:
            a.update(keypoints=keypoints_of(a["bbox"]), num_keypoints=3)
    Path(file).write_text(json.dumps(content))
    return content
