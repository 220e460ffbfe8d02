"""The sets of domain-adaptive segmentation: GTA5, SYNTHIA, Cityscapes, ACDC and Dark Zurich, with 19 classes.

All are below ``$DETECTRON2_DATASETS``, as they are unpacked (docs/datasets.md). They have label maps and no boxes.

- ``gta5_train``, ``synthia_train``: synthetic sources. Their label maps have other ids. :func:`prepare_scenes` makes
  those of train ids.
- ``cityscapes_sem_{train,val,test}``; ``cityscapes_sem_val_synthia``: the same images as val, evaluated on SYNTHIA's
  classes.
- ``acdc_{train,val,test}`` and ``acdc_{fog,night,rain,snow}_{train,val,test}``.
- ``dark_zurich_{train,val,test}``: by night.

Test sets have no labels: an evaluation writes the files that their servers take.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ...errors import DataError
from ...utils.ordinary_files import check_ordinary, open_picture
from ...utils.parallel import run_parallel, write_png
from ..label_maps import IGNORED, cache_folder, label_map_file, make_label_maps, train_ids
from .cityscapes_labels import LABELS, SEM_SEG_CLASSES
from .unpacked import register_set, set_files, set_folder

MADE = "label_maps"  # the folder of label maps that are made, in the folder of the set or in the user's cache
CONDITIONS = ("fog", "night", "rain", "snow")
SPLITS = ("train", "val", "test")
# SYNTHIA-RAND-CITYSCAPES: its ids of Cityscapes' classes; terrain, truck and train have no pixels
SYNTHIA_IDS = {
    1: "sky", 2: "building", 3: "road", 4: "sidewalk", 5: "fence", 6: "vegetation", 7: "pole", 8: "car",
    9: "traffic sign", 10: "person", 11: "bicycle", 12: "motorcycle", 15: "traffic light", 16: "terrain", 17: "rider",
    18: "truck", 19: "bus", 20: "train", 21: "wall",
}  # fmt: skip
NOT_IN_SYNTHIA = ("terrain", "truck", "train")
CLASSES_16 = tuple(c for c in SEM_SEG_CLASSES if c not in NOT_IN_SYNTHIA)
CLASSES_13 = tuple(c for c in CLASSES_16 if c not in ("wall", "fence", "pole"))


@dataclass(frozen=True)
class SceneSet:
    """One registered set.

    Attributes:
        description (str): what it is, for the log.
        folder (str): below ``$DETECTRON2_DATASETS``.
        images (str): pattern of its images below ``folder``.
        count (int): their number in the public set; 0 = unknown.
        labels (str): kind of its label maps, a key of ``LABEL_KINDS``; "" = no labels.
        submission (str): for sets without labels, the ids that the server takes: "train_ids" or "label_ids".
        means (tuple): (metric, classes) of means over some classes; "mIoU" replaces that over all classes.
    """

    description: str
    folder: str
    images: str
    count: int = 0
    labels: str = ""
    submission: str = ""
    means: tuple = ()


def scene_sets():
    """Every registered name with its :class:`SceneSet`."""
    sets = {
        "gta5_train": SceneSet("GTA5", "gta5", "images/*.png", 24966, "gta5"),
        "synthia_train": SceneSet("SYNTHIA-RAND-CITYSCAPES", "synthia", "RGB/*.png", 9400, "synthia"),
    }
    for split, count in zip(SPLITS, (2975, 500, 1525)):
        sets[f"cityscapes_sem_{split}"] = _labelled(
            split, f"Cityscapes {split}", "cityscapes", f"leftImg8bit/{split}/*/*_leftImg8bit.png", count,
            "cityscapes", "label_ids",
        )  # fmt: skip
    sets["cityscapes_sem_val_synthia"] = SceneSet(
        "Cityscapes val, means over SYNTHIA's classes", "cityscapes", "leftImg8bit/val/*/*_leftImg8bit.png", 500,
        "cityscapes", means=(("mIoU", CLASSES_16), ("mIoU13", CLASSES_13)),
    )  # fmt: skip
    for split, count in zip(SPLITS, (1600, 406, 2000)):
        pattern = f"rgb_anon/{{}}/{split}/*/*_rgb_anon.png"
        sets[f"acdc_{split}"] = _labelled(
            split, f"ACDC {split}", "acdc", pattern.format("*"), count, "gt", "train_ids"
        )  # fmt: skip
        for condition in CONDITIONS:
            sets[f"acdc_{condition}_{split}"] = _labelled(
                split, f"ACDC {split}, {condition}", "acdc", pattern.format(condition), 0, "gt", "train_ids"
            )  # fmt: skip
    for split, count in zip(SPLITS, (2416, 50, 151)):
        sets[f"dark_zurich_{split}"] = _labelled(
            "test" if split == "train" else split, f"Dark Zurich {split}, night", "dark_zurich",
            f"rgb_anon/{split}/night/*/*_rgb_anon.png", count, "gt", "train_ids" if split == "test" else "",
        )  # fmt: skip
    return sets


def _labelled(split, description, folder, images, count, labels, submission):
    if split == "test":
        return SceneSet(description, folder, images, count, submission=submission)
    return SceneSet(description, folder, images, count, labels)


def register_street_scenes():
    """Register all of :func:`scene_sets`. No file is read before a set is loaded."""
    for name, entry in scene_sets().items():
        register_set(
            name, functools.partial(load_scenes, name), stuff_classes=list(SEM_SEG_CLASSES), ignore_label=IGNORED,
            thing_classes=[], evaluator_type="sem_seg", description=entry.description, submission=entry.submission,
            means=dict(entry.means),
        )  # fmt: skip


def load_scenes(name):
    """Dataset dicts of one set, in Detectron2's format, with ``sem_seg_file_name`` where the set has labels.

    Raises:
        DataError: where the folder or its images are missing; names it.
    """
    entry = scene_sets()[name]
    root = set_folder(name, entry.folder)
    find = LABEL_KINDS[entry.labels].find if entry.labels else lambda *x: None
    dicts = []
    for i, file in enumerate(set_files(name, root, entry.images)):
        label_map = find(root, file.relative_to(root))
        dicts.append({"file_name": str(file), "image_id": i})
        if label_map is not None:
            dicts[-1]["sem_seg_file_name"] = str(label_map)
    return dicts


def prepare_scenes(name, workers=None, progress=True):
    """Make the label maps of a registered set that are missing. Other names and other kinds of sets are left alone.

    Those of GTA5 and SYNTHIA are made in ``label_maps`` of their folder, and those of Cityscapes in ``gtFine``. Where
    these folders cannot be written, they are made in the user's cache.

    Returns:
        int: the number of maps that were made.

    Raises:
        DataError: names the file that is missing, is of another size than its image or is not as expected.
    """
    entry = scene_sets().get(name)
    if entry is None or not entry.labels:
        return 0
    root, kind = set_folder(name, entry.folder), LABEL_KINDS[entry.labels]
    try:
        if kind.convert is None:
            return make_label_maps(root, _split(entry), workers, progress) if entry.labels == "cityscapes" else 0
        files = [x.relative_to(root) for x in set_files(name, root, entry.images)]
        missing = [x for x in files if kind.find(root, x) is None]
        make = functools.partial(_make, root=root, kind=entry.labels)
        run_parallel(make, missing, workers, f"{name} label maps", progress and bool(missing))
    except (OSError, ValueError) as e:
        raise DataError(f"{name}: {e}.") from e
    return len(missing)


# ------------------------------------------------------------------------------------- where label maps are


@dataclass(frozen=True)
class LabelKind:
    """Where the label map of an image is, and how it is made.

    Attributes:
        find (callable): (root, image below root) -> path of its label map, or None.
        source (callable): image below root -> path below root of the map with the set's own ids.
        convert (callable): path of that map -> its train ids (H, W) uint8. None: nothing is made.
    """

    find: callable
    source: callable = None
    convert: callable = None


def _made(root, image):
    return next((f for f in _places(root, image) if f.is_file()), None)


def _places(root, image):
    return Path(root) / MADE / image.name, cache_folder(root) / MADE / image.name


def _in_gt_fine(root, image):
    _, split, city, name = image.parts
    return label_map_file(root, f"{split}/{city}/{name.split('_leftImg8bit')[0]}")


def _in_gt(root, image):
    name = image.name.replace("_rgb_anon", "_gt_labelTrainIds")
    return Path(root) / "gt" / image.relative_to("rgb_anon").with_name(name)


def gta5_train_ids(file):
    """Train ids of a label map of GTA5, whose ids are Cityscapes'. It has a palette: a pixel's index is its id."""
    with open_picture(file) as image:
        if image.mode not in ("P", "L"):
            raise ValueError(f"{file} is PIL's {image.mode}: labels of GTA5 are 8-bit indices. Unpack it again")
        return train_ids(np.asarray(image))


def synthia_train_ids(file):
    """Train ids of a label map of SYNTHIA: 16 bit and three channels, of which the first (red) has the class."""
    check_ordinary(file)
    # PIL reads such a file as 8 bit, and loses the ids
    pixels = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        what = "cannot be decoded" if pixels is None else f"is {pixels.dtype} of the shape {pixels.shape}"
        raise ValueError(f"{file} {what}: maps of GT/LABELS have 16 bits and three channels. Unpack it again")
    table = np.full(np.iinfo(np.uint16).max + 1, IGNORED, np.uint8)
    for label, name in SYNTHIA_IDS.items():
        table[label] = LABELS[name][1]
    return table[pixels[:, :, 2]]  # OpenCV's channels are blue, green, red


LABEL_KINDS = {
    "gta5": LabelKind(_made, lambda image: Path("labels") / image.name, gta5_train_ids),
    "synthia": LabelKind(_made, lambda image: Path("GT/LABELS") / image.name, synthia_train_ids),
    "cityscapes": LabelKind(_in_gt_fine),
    "gt": LabelKind(_in_gt),
}


def _make(image, root, kind):
    cv2.setNumThreads(1)
    source = root / LABEL_KINDS[kind].source(image)
    try:
        labels = LABEL_KINDS[kind].convert(source)
        with open_picture(root / image) as opened:
            size = opened.size[::-1]
    except (OSError, SyntaxError, cv2.error) as e:
        raise ValueError(f"{source} or its image {root / image} cannot be read ({e}): unpack it again") from e
    if labels.shape != size:
        raise ValueError(
            f"{source} has the shape {labels.shape}, but its image has {size}. Unpack both again, or remove both"
        )
    first, second = _places(root, image)
    try:
        write_png(first, labels)
    except OSError:
        write_png(second, labels)


def _split(entry):
    return Path(entry.images).parts[1]
