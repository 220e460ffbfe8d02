"""Cityscapes and Foggy Cityscapes under names of their own, found below ``$DETECTRON2_DATASETS``.

- ``cityscapes_det_{train,val}``: clear images, COCO boxes of the eight classes.
- ``cityscapes_foggy_{0.005,0.01,0.02,all}_{train,val}``: the same in fog of that beta, or in all three.
- ``..._train_half_{a,b}``: every second training image, so that source and target share no scene.
- ``cityscapes_car_{train,val}``: cars alone, the target of ``sim10k_car`` and ``kitti_car``.

Detectron2's own ``cityscapes_*`` names are others: they are evaluated by Cityscapes' mask scripts.
Boxes are made from ``gtFine`` when a set is first used, and kept as COCO files in ``annotations``.
"""

import functools
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from ...errors import DataError
from ...utils.outputs import Outputs
from ..classes import set_metadata
from ..custom_sets import load_annotated, read_coco, resolve_path
from ..files import glob_files
from ..label_maps import (
    IGNORED,
    cache_folder,
    label_map_file,
    make_label_maps,
)
from .cityscapes import annotated_images, cityscapes_to_coco, default_source
from .cityscapes_labels import SEM_SEG_CLASSES, THING_CLASSES
from .unpacked import register_set

BETAS = ("0.005", "0.01", "0.02")
CLEAR, FOGGY = "leftImg8bit", "leftImg8bit_foggy"


@dataclass(frozen=True)
class CityscapesSet:
    """One registered set: split, fog ("" = none), half of the images ("" = all), classes."""

    split: str
    beta: str = ""
    half: str = ""
    classes: tuple = THING_CLASSES

    def describe(self):
        """What the start of a run tells about it."""
        fog = {"": "clear", "all": f"fog of beta {', '.join(BETAS)}"}.get(self.beta, f"fog of beta {self.beta}")
        return f"Cityscapes {self.split}{f', half {self.half}' if self.half else ''}, {fog}"


def cityscapes_sets():
    """Every registered name with its :class:`CityscapesSet`."""
    sets = {}
    for split in ("train", "val"):
        sets[f"cityscapes_det_{split}"] = CityscapesSet(split)
        sets[f"cityscapes_car_{split}"] = CityscapesSet(split, classes=("car",))
        for beta in (*BETAS, "all"):
            sets[f"cityscapes_foggy_{beta}_{split}"] = CityscapesSet(split, beta)
    for name, entry in list(sets.items()):
        if entry.split == "train" and len(entry.classes) > 1:
            sets.update({f"{name}_half_{half}": CityscapesSet("train", entry.beta, half) for half in "ab"})
    return sets


def register_cityscapes():
    """Register all of :func:`cityscapes_sets`; the disk is not touched until a set is loaded."""
    for name, entry in cityscapes_sets().items():
        load = functools.partial(load_cityscapes, name, entry)
        register_set(name, load, thing_classes=list(entry.classes), **_metadata(entry))


def _metadata(entry):
    return dict(
        evaluator_type="coco", description=entry.describe(), stuff_classes=list(SEM_SEG_CLASSES), ignore_label=IGNORED
    )


def prepare_label_maps(name):
    """Make the label maps of a registered set that are missing; other names are left alone.

    Raises:
        DataError: where a source file cannot be read, or nothing can be written.
    """
    entry = cityscapes_sets().get(name)
    if entry is not None:
        try:
            make_label_maps(cityscapes_root(), entry.split)
        except (OSError, ValueError) as e:
            raise DataError(f"{name}: {e}.") from e


def cityscapes_root():
    """``$DETECTRON2_DATASETS/cityscapes``, or that folder itself where it has Cityscapes' layout.

    Raises:
        DataError: where there is neither.
    """
    base = resolve_path("")
    for root in (base / "cityscapes", base):
        if (root / CLEAR).is_dir() or (root / FOGGY).is_dir():
            return root
    raise DataError(
        f"there is no Cityscapes in {base / 'cityscapes'}: it needs the folders gtFine, {CLEAR} and, for fog, {FOGGY} "
        "(see docs/datasets.md). Set DETECTRON2_DATASETS to the folder that has cityscapes in it."
    )


def load_cityscapes(name, entry):
    """Dataset dicts of one set, in Detectron2's format, with instance masks.

    Images that have a ``*_gtFine_labelTrainIds.png`` get it as ``sem_seg_file_name``. Images without
    things are kept.

    Args:
        name (str): registered name; its metadata gets ``json_file`` and ``image_root``.
        entry (CityscapesSet): what it is.

    Raises:
        DataError: where folders, annotations or images are missing or broken; names them.
    """
    root = cityscapes_root()
    try:
        content = split_annotations(root, entry.split)
    except (FileNotFoundError, ValueError) as e:
        raise DataError(f"{name}: {e}.") from e
    content = _select(content, entry)
    folder = root / (FOGGY if entry.beta else CLEAR)
    missing = next((x["file_name"] for x in content["images"] if not (folder / x["file_name"]).is_file()), None)
    if missing:
        how = f"; datasets/make_fog.py makes {FOGGY} from disparity and camera files" if entry.beta else ""
        raise DataError(f"{name}: image {folder / missing} is missing. Unpack {folder.name} again{how}.")
    suffix = f"{name}.json" if entry.half or len(entry.classes) == 1 else coco_name(entry.split, entry.beta)
    path = _store(root, suffix, content)
    set_metadata(name, json_file=str(path), image_root=str(folder), **_metadata(entry))
    dicts = load_annotated(name, path, folder, content)
    for x in dicts:
        relative = Path(x["file_name"]).relative_to(folder)
        labels = label_map_file(root, (relative.parent / relative.name.split("_leftImg8bit")[0]).as_posix())
        if labels is not None:
            x["sem_seg_file_name"] = str(labels)
    return dicts


def coco_name(split, beta=""):
    """``instances_val.json``, ``instances_foggy_0.02_val.json``."""
    return f"instances_{f'foggy_{beta}_' if beta else ''}{split}.json"


def split_annotations(root, split, source=None, workers=None, overwrite=False, progress=True):
    """COCO annotations of a split's clear images, made once and then read from ``annotations``.

    A file that lists other images than the disk has is made again.

    Args:
        root (path), split (str): folder of Cityscapes, "train" or "val".
        source (str): "instanceIds" or "polygons"; None = what there is.
        workers (int), progress (bool): while they are made; None = one process a core.
        overwrite (bool): make them even where there is a file.

    Raises:
        FileNotFoundError, ValueError: see :func:`cityscapes_to_coco`.
    """
    root = Path(root)
    stored = [] if overwrite else [p for p in _places(root, coco_name(split)) if p.is_file()]
    labelled = (root / "gtFine" / split).is_dir()
    if stored and not labelled:
        return read_coco(coco_name(split), stored[0])
    image_dir, suffix = CLEAR, f"{CLEAR}.png"
    if not (root / CLEAR / split).is_dir() and (root / FOGGY / split).is_dir():
        # sizes and names are those of the foggy twins, where a user has only these
        beta = next((b for b in BETAS if glob_files(root / FOGGY / split, f"*/*_beta_{b}.png")), BETAS[-1])
        image_dir, suffix = FOGGY, f"{FOGGY}_beta_{beta}.png"
    source = source or default_source(root, split)
    if stored:
        names = [_clear_name(n) for _, n in annotated_images(root, split, image_dir, suffix, source)]
        for file in stored:
            content = read_coco(coco_name(split), file)
            if [x["file_name"] for x in content["images"]] == names:
                return content
        text = "%s lists other images than %s has: the file is made again."
        logging.getLogger(__name__).warning(text, stored[0], root)
    content = cityscapes_to_coco(root, split, image_dir, suffix, source, workers, progress)
    for x in content["images"]:
        x["file_name"] = _clear_name(x["file_name"])
    _store(root, coco_name(split), content, overwrite)
    return content


def foggy_annotations(content, beta):
    """The annotations of clear images, for their foggy twins of one beta ("0.02") or of "all"."""
    images, annotations = [], []
    for b in BETAS if beta == "all" else (beta,):
        ids = {x["id"]: len(images) + i for i, x in enumerate(content["images"], start=1)}
        images += [{**x, "id": ids[x["id"]], "file_name": _foggy_name(x["file_name"], b)} for x in content["images"]]
        first = len(annotations) + 1
        annotations += [
            {**a, "id": first + i, "image_id": ids[a["image_id"]]} for i, a in enumerate(content["annotations"])
        ]
    return {**content, "images": images, "annotations": annotations}


def _select(content, entry):
    """The part of a split's annotations that a set is made of."""
    if entry.half:
        images = content["images"]["ab".index(entry.half) :: 2]
        kept = {x["id"] for x in images}
        annotations = [a for a in content["annotations"] if a["image_id"] in kept]
        content = {**content, "images": images, "annotations": annotations}
    if tuple(c["name"] for c in content["categories"]) != entry.classes:
        categories = [c for c in content["categories"] if c["name"] in entry.classes]
        kept = {c["id"] for c in categories}
        annotations = [a for a in content["annotations"] if a["category_id"] in kept]
        content = {**content, "categories": categories, "annotations": annotations}
    return foggy_annotations(content, entry.beta) if entry.beta else content


def _clear_name(name):
    return name.split(f"_{CLEAR}")[0] + f"_{CLEAR}.png"


def _foggy_name(name, beta):
    return f"{name[: -len('.png')]}_foggy_beta_{beta}.png"


def _places(root, file):
    """Where a COCO file may be: beside the data, or in the user's cache where that cannot be written."""
    return root / "annotations" / file, cache_folder(root) / file


def _store(root, file, content, overwrite=False):
    """Write a COCO file where it differs from what is there; returns its path."""
    text = json.dumps(content, sort_keys=True).encode("utf-8")
    for path in _places(root, file):
        if path.is_file() and path.read_bytes() == text:
            return path
    error = None
    for path in _places(root, file):
        try:  # a file that is not ours stays as it is: the user's own annotations have such names too
            Outputs(path.parent, "cityscapes", overwrite=overwrite).write_text(path.name, text.decode("utf-8"))
            return path
        except DataError as e:
            error = error or e
    raise DataError(f"cannot write {file} to {' or '.join(map(str, _places(root, file)))} ({error})")
