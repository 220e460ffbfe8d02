"""Cityscapes' labels: names, ids in ``labelIds``, ids that are trained on, and which are divided into instances."""

# name: (id, train id or 255 = not trained on, divided into instances)
LABELS = {
    "unlabeled": (0, 255, False),
    "ego vehicle": (1, 255, False),
    "rectification border": (2, 255, False),
    "out of roi": (3, 255, False),
    "static": (4, 255, False),
    "dynamic": (5, 255, False),
    "ground": (6, 255, False),
    "road": (7, 0, False),
    "sidewalk": (8, 1, False),
    "parking": (9, 255, False),
    "rail track": (10, 255, False),
    "building": (11, 2, False),
    "wall": (12, 3, False),
    "fence": (13, 4, False),
    "guard rail": (14, 255, False),
    "bridge": (15, 255, False),
    "tunnel": (16, 255, False),
    "pole": (17, 5, False),
    "polegroup": (18, 255, False),
    "traffic light": (19, 6, False),
    "traffic sign": (20, 7, False),
    "vegetation": (21, 8, False),
    "terrain": (22, 9, False),
    "sky": (23, 10, False),
    "person": (24, 11, True),
    "rider": (25, 12, True),
    "car": (26, 13, True),
    "truck": (27, 14, True),
    "bus": (28, 15, True),
    "caravan": (29, 255, True),
    "trailer": (30, 255, True),
    "train": (31, 16, True),
    "motorcycle": (32, 17, True),
    "bicycle": (33, 18, True),
    "license plate": (-1, 255, False),  # painted as the vehicle that carries it
}

# the eight classes of boxes, in the field's order
THING_CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
THING_IDS = {name: LABELS[name][0] for name in THING_CLASSES}


def polygon_label(name):
    """(id, divided into instances, is a group) of a polygon's label; ``cargroup`` is a group of cars.

    Raises:
        KeyError: where the label is none of Cityscapes'.
    """
    group = name not in LABELS and name.endswith("group")
    label, _, instances = LABELS[name[: -len("group")] if group else name]
    return label, instances and not group, group


# the names of train ids 0 to 18
SEM_SEG_CLASSES = tuple(
    name for name, (_, train_id, _) in sorted(LABELS.items(), key=lambda x: x[1][1]) if train_id != 255
)
