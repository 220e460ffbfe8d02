"""The keypoints of the figures in the miniature city: their names, what joins them, and the file of an image.

A figure looks at the camera, so its left side is on the right of the picture.
"""

import json

import numpy as np

from ...utils.ordinary_files import read_text
from ..datasets.cityscapes import write_json

KEYPOINTS = (
    "head", "left_shoulder", "right_shoulder", "left_hand", "right_hand", "left_hip", "right_hip", "left_foot",
    "right_foot",
)  # fmt: skip
SKELETON = (
    ("head", "left_shoulder"), ("head", "right_shoulder"), ("left_shoulder", "right_shoulder"),
    ("left_shoulder", "left_hand"), ("right_shoulder", "right_hand"), ("left_shoulder", "left_hip"),
    ("right_shoulder", "right_hip"), ("left_hip", "right_hip"), ("left_hip", "left_foot"),
    ("right_hip", "right_foot"),
)  # fmt: skip
# COCO's, of the ears, shoulders, wrists, hips and ankles
SIGMAS = (0.035, 0.079, 0.079, 0.062, 0.062, 0.107, 0.107, 0.089, 0.089)
CLASSES = ("person", "rider")  # that have them


def mirrored(points, width):
    """The keypoints {name: (x, y)} of a picture of this width, after its columns are reversed."""
    return {_other_side(name): (width - x, y) for name, (x, y) in points.items()}


def _other_side(name):
    for side, other in (("left_", "right_"), ("right_", "left_")):
        if name.startswith(side):
            return other + name[len(side) :]
    return name


def with_visibility(points, number, front):
    """Rows (x, y, v) of a figure's keypoints, in the order of :data:`KEYPOINTS`.

    Args:
        points (dict): name -> (x, y), continuous pixel coordinates: a pixel's centre is at 0.5.
        number (int): of the figure among the things of a scene.
        front (ndarray): (H, W), the number of the nearest thing in each pixel; things are numbered from far to near.

    Returns:
        ndarray: (K, 3). v is 2 where the keypoint is seen, and 1 where a nearer thing covers its pixel. It is 0, and
        so are x and y, where the keypoint is outside of the image.
    """
    rows = np.zeros((len(KEYPOINTS), 3))
    height, width = front.shape
    for row, name in zip(rows, KEYPOINTS):
        x, y = points[name]
        if 0 <= x < width and 0 <= y < height:
            row[:] = x, y, 1 if front[int(y), int(x)] > number else 2
    return rows


def write_keypoints(keypoints, path):
    """Write the keypoints {instance id: (K, 3)} of an image in the form of COCO: its numbers are indices of pixels."""
    instances = {}
    for number, rows in keypoints.items():
        seen = rows[:, 2:] > 0
        # the pixel with index 3 has its centre at the coordinate 3.5
        values = np.concatenate([np.where(seen, np.round(rows[:, :2] - 0.5, 3), 0.0), rows[:, 2:]], axis=1)
        instances[str(number)] = [int(v) if i % 3 == 2 else v for i, v in enumerate(values.flatten().tolist())]
    write_json({"keypoints": list(KEYPOINTS), "instances": instances}, path)


def read_annotations(instance_ids_file):
    """What :func:`write_keypoints` wrote beside an instance map, as entries of COCO: {instance id: dict}."""
    file = str(instance_ids_file).replace("_instanceIds.png", "_keypoints.json")
    return {
        int(number): {"keypoints": values, "num_keypoints": sum(v > 0 for v in values[2::3])}
        for number, values in json.loads(read_text(file))["instances"].items()
    }


def add_to_categories(categories):
    """Give COCO's categories of figures the names of their keypoints and the skeleton, in place."""
    for category in categories:
        if category["name"] in CLASSES:
            category["keypoints"] = list(KEYPOINTS)
            category["skeleton"] = [[KEYPOINTS.index(a) + 1, KEYPOINTS.index(b) + 1] for a, b in SKELETON]
