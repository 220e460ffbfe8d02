"""The registered sets of CamVid (Brostow, Fauqueur, Cipolla, 2009): by day, in rendered fog, and at dusk.

``datasets/prepare_camvid.py`` makes the files from the public folder in SegNet's layout; see :func:`prepare_camvid`.

- ``camvid_day_{train,val}``: the labelled source, in clear daylight.
- ``camvid_fog_{train,val}``: another street, with fog rendered on the real images.
- ``camvid_dusk_{train,val}``: filmed at dusk, without rendering; train has no labels.

Classes of boxes: person, car, bicycle. Label maps: the 11 classes of the public folder.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ...errors import DataError
from ...utils.ordinary_files import absence, check_ordinary, is_ordinary
from ...utils.outputs import Outputs
from ...utils.parallel import run_parallel
from ..classes import set_metadata
from ..custom_sets import load_declared, resolve_path
from ..files import list_images
from ..fog import add_fog
from .camvid_distance import distance_from_labels
from .unpacked import register_set

THING_CLASSES = ("person", "car", "bicycle")
# labels 0 to 10 of the public folder; 11 has no label
SEM_SEG_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "person", "bicycle",
)  # fmt: skip
VOID, IGNORED = len(SEM_SEG_CLASSES), 255
SPLITS = ("train", "val", "test")
FOLDER = "camvid"  # below $DETECTRON2_DATASETS
ANNOTATIONS, LABEL_MAPS, FOGGY = "annotations", "label_maps", "foggy"  # folders that are made, below FOLDER
MIN_AREA, MIN_WIDTH, MIN_HEIGHT = 60, 5, 6  # pixels: smaller components do not become boxes
BETA, AIRLIGHT = "0.05", (208.0, 212.0, 216.0)  # 1/m: visibility 60 m; RGB


@dataclass(frozen=True)
class CamVidSet:
    """One registered set.

    Attributes:
        split (str): the public split that has its images.
        sequences (tuple of str): prefixes of its file names.
        images (int): their number in the public folder.
        half (str): "first" or "last" half of the sequence, in the order of names. The middle image of an odd number is
            in neither half. "" = all.
        foggy (bool): fog is rendered.
        labelled (bool): boxes and label maps are written.
    """

    split: str
    sequences: tuple
    images: int
    half: str = ""
    foggy: bool = False
    labelled: bool = True

    def choose(self, files):
        """The images of the set, from those of its split (sorted by name)."""
        files = [f for f in files if f.name.split("_")[0] in self.sequences]
        half = len(files) // 2
        return {"": files, "first": files[:half], "last": files[len(files) - half :]}[self.half]

    def describe(self):
        """The description of the set that a run reports at its start."""
        half = f", {self.half} half" if self.half else ""
        fog = ", rendered fog" if self.foggy else ""
        return f"CamVid {self.split}, {' and '.join(self.sequences)}{half}{fog}"


SETS = {
    "camvid_day_train": CamVidSet("train", ("0006R0", "0016E5"), 305),
    "camvid_day_val": CamVidSet("val", ("0016E5",), 101),
    "camvid_fog_train": CamVidSet("test", ("Seq05VD",), 85, half="first", foggy=True),
    "camvid_fog_val": CamVidSet("test", ("Seq05VD",), 85, half="last", foggy=True),
    "camvid_dusk_train": CamVidSet("train", ("0001TP",), 62, labelled=False),
    "camvid_dusk_val": CamVidSet("test", ("0001TP",), 62),
}


def register_camvid():
    """Register all of ``SETS``. No file is read before a set is loaded."""
    for name, entry in SETS.items():
        metadata = dict(thing_classes=list(THING_CLASSES), evaluator_type="coco", description=entry.describe())
        metadata.update(stuff_classes=list(SEM_SEG_CLASSES), ignore_label=IGNORED)
        register_set(name, functools.partial(load_camvid, name), **metadata)


def load_camvid(name):
    """Dataset dicts of one set, in Detectron2's format, with ``sem_seg_file_name`` where the set is labelled.

    Raises:
        DataError: where its files have not been made by :func:`prepare_camvid`, or one is broken; names the file.
    """
    file, root = resolve_path(f"{FOLDER}/{ANNOTATIONS}/{name}.json"), resolve_path(FOLDER)
    if not is_ordinary(file):
        raise DataError(
            f"{name}: {file} {absence(file)}. Make it with `python datasets/prepare_camvid.py --root {root}` "
            "(docs/datasets.md), or set DETECTRON2_DATASETS to the folder that has camvid in it."
        )
    set_metadata(name, json_file=str(file), image_root=str(root))
    return load_declared(name, file, root, root / LABEL_MAPS if SETS[name].labelled else "")


# ------------------------------------------------------------------------------------------- making


def prepare_camvid(root, beta=BETA, workers=None, overwrite=False, progress=True):
    """Make COCO files, label maps and foggy images from the public folder, in this folder.

    Input: ``{train,val,test}/SEQUENCE_*.png`` and ``{train,val,test}annot/SEQUENCE_*.png`` with labels 0 to 11.
    Output: ``annotations/NAME.json``, ``label_maps/SPLIT/*.png`` (255 = no label), ``foggy/*_foggy_beta_BETA.png``. A
    second call gives the same bytes.

    A box is the tight box of a connected component (8 neighbours) of one class, of at least 60 pixels, 5 columns and 6
    rows. So people who touch each other share one box, and a half-hidden car may have two.
    :mod:`.camvid_distance` has the distances of the fog.

    Args:
        root (path): the folder.
        beta (str): attenuation in 1/m, in the form of the file names.
        workers (int): processes; None = one per core.
        overwrite (bool): replace files that this function did not make.

    Returns:
        dict[str, dict]: the COCO content of each set.

    Raises:
        DataError: names the folder or file that is missing or broken, or that must not be overwritten.
    """
    root = Path(root)
    files = {split: _images(root, split) for split in SPLITS}
    chosen = {name: entry.choose(files[entry.split]) for name, entry in SETS.items()}
    for name, entry in SETS.items():
        if not chosen[name]:
            wanted = " or ".join(f"{x}_*" for x in entry.sequences)
            raise DataError(
                f"{name}: no image {wanted} in {root / entry.split}. The folder must have CamVid in SegNet's layout, "
                "with the names of the video sequences (docs/datasets.md)."
            )
    jobs = [(file, SETS[name]) for name, own in chosen.items() for file in own]
    make = functools.partial(_make_image, root=root, beta=beta, overwrite=overwrite)
    found = iter(run_parallel(make, jobs, workers, "CamVid", progress))
    contents = {name: _coco(SETS[name], [next(found) for _ in own]) for name, own in chosen.items()}
    outputs = _outputs(root, overwrite)
    for name, content in contents.items():
        _write(outputs, f"{ANNOTATIONS}/{name}.json", json.dumps(content, sort_keys=True).encode())
    return contents


def boxes_of_labels(labels):
    """Annotations of a label map (H, W): ``category_id``, ``bbox`` (x, y, width, height), ``area``."""
    for category, name in enumerate(THING_CLASSES, start=1):
        mask = (labels == SEM_SEG_CLASSES.index(name)).astype(np.uint8)
        _, _, components, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        for *box, area in components[1:].tolist():
            if area >= MIN_AREA and box[2] >= MIN_WIDTH and box[3] >= MIN_HEIGHT:
                yield {"category_id": category, "bbox": box, "area": area, "iscrowd": 0}


def _images(root, split):
    for folder in (root / split, root / f"{split}annot"):
        if not folder.is_dir():
            raise DataError(
                f"there is no folder {folder}: CamVid in SegNet's layout has train, trainannot, val, valannot, test "
                "and testannot (docs/datasets.md). Check --root."
            )
    return list_images(root / split)


def _make_image(job, root, beta, overwrite):
    """(entry, annotations) of one image. Writes its label map and its foggy image."""
    file, entry = job
    cv2.setNumThreads(1)
    image = _read(file, cv2.IMREAD_COLOR)
    height, width = image.shape[:2]
    names = {"file_name": f"{entry.split}/{file.name}"}
    if not entry.labelled:
        return {**names, "height": height, "width": width}, []
    label_file = root / f"{entry.split}annot" / f"{file.stem}.png"
    labels = _read(label_file, cv2.IMREAD_UNCHANGED)
    _check_labels(labels, label_file, file, (height, width))
    outputs = _outputs(root, overwrite)
    if entry.foggy:
        distance = distance_from_labels(labels, SEM_SEG_CLASSES, image)
        names["file_name"] = f"{FOGGY}/{file.stem}_foggy_beta_{beta}.png"
        _write(outputs, names["file_name"], _png(add_fog(image, distance, float(beta), AIRLIGHT[::-1])))
    names["sem_seg_file_name"] = f"{entry.split}/{file.stem}.png"
    label_map = np.where(labels == VOID, IGNORED, labels).astype(np.uint8)
    _write(outputs, f"{LABEL_MAPS}/{names['sem_seg_file_name']}", _png(label_map))
    return {**names, "height": height, "width": width}, list(boxes_of_labels(labels))


def _check_labels(labels, file, image, size):
    if labels.shape != size:
        raise DataError(
            f"{file} has the shape {labels.shape}: it must have one channel and the size of {image}, {size}. Unpack it "
            "again."
        )
    if labels.max() > VOID:
        raise DataError(
            f"{file} has the label {labels.max()}: labels are 0 to {VOID} in SegNet's layout ({VOID} = no label). "
            "Colour maps and the 32 classes of CamVid's own site cannot be read: use the folder of SegNet's tutorial."
        )


def _coco(entry, found):
    images, annotations = [], []
    for image_id, (image, own) in enumerate(found, start=1):
        images.append({"id": image_id, **image})
        annotations += [{"id": len(annotations) + i, "image_id": image_id, **a} for i, a in enumerate(own, start=1)]
    content = {"info": {"description": entry.describe()}, "images": images}
    if entry.labelled:
        content["annotations"] = annotations
    return {**content, "categories": [{"id": i, "name": name} for i, name in enumerate(THING_CLASSES, start=1)]}


def _read(file, flags):
    try:
        check_ordinary(file)
        image = cv2.imdecode(np.fromfile(file, np.uint8), flags)
    except FileNotFoundError as e:
        raise DataError(f"{file} is missing: each image needs its label map. Unpack the folder again.") from e
    except (OSError, cv2.error) as e:
        raise DataError(f"{file} cannot be read ({getattr(e, 'strerror', None) or 'it is not an image'}).") from e
    if image is None:
        raise DataError(f"{file} cannot be read as an image. Unpack it again.")
    return image


def _outputs(root, overwrite):
    inputs = [root / f"{split}{kind}" for split in SPLITS for kind in ("", "annot")]
    return Outputs(root, "prepare_camvid", inputs, overwrite)


def _write(outputs, name, content):
    """Write a file, unless it already has these bytes."""
    path = outputs.folder / name
    if not (is_ordinary(path) and path.read_bytes() == content):
        with outputs.writing(name) as temporary:
            temporary.write_bytes(content)


def _png(array):
    return cv2.imencode(".png", array)[1].tobytes()
