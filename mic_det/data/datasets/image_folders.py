"""Sets of image classes: a folder with one sub-folder for each class. VisDA-2017 and Office-Home are registered.

- ``visda2017_{train,validation}``: synthetic and real images of 12 classes, below ``visda-2017``.
- ``office_home_{art,clipart,product,real_world}``: 65 classes in four styles, below ``office-home``.
"""

import functools
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from ...errors import DataError
from ..classes import expected_classes, positions, set_metadata
from ..files import IMAGE_SUFFIXES, is_hidden, list_images
from ..paths import resolve_path

# registered name -> (folder below $DETECTRON2_DATASETS, description)
SETS = {
    "visda2017_train": ("visda-2017/train", "VisDA-2017, synthetic"),
    "visda2017_validation": ("visda-2017/validation", "VisDA-2017, real"),
    "office_home_art": ("office-home/Art", "Office-Home, Art"),
    "office_home_clipart": ("office-home/Clipart", "Office-Home, Clipart"),
    "office_home_product": ("office-home/Product", "Office-Home, Product"),
    "office_home_real_world": ("office-home/Real World", "Office-Home, Real World"),
}


def register_image_folders():
    """Register the sets above; the disk is not touched until one is loaded."""
    for name, (folder, description) in SETS.items():
        if name not in DatasetCatalog.list():
            register_class_folders(name, folder, description=description)


def register_class_folders(name, folder, labelled=True, **metadata):
    """Register a folder with one sub-folder for each class.

    Args:
        name (str): the set's name.
        folder (path): relative ones are below ``$DETECTRON2_DATASETS``.
        labelled (bool): False for a target set: the sub-folders are not looked at as labels.
    """
    DatasetCatalog.register(name, functools.partial(load_class_folders, name, folder, labelled))
    MetadataCatalog.get(name).set(evaluator_type="image_class", image_root=str(resolve_path(folder)), **metadata)
    if labelled:
        MetadataCatalog.get(name).set(read_categories=lambda: list(enumerate(_classes(name, resolve_path(folder)))))


def load_class_folders(name, folder, labelled=True):
    """Dataset dicts with ``file_name``, ``image_id`` and, where labelled, ``image_class``: an index of the classes.

    The classes are those of the first training set, compared by name. Without one, they are the sub-folders, sorted.
    The set's metadata gets them as ``thing_classes``.

    Raises:
        DataError: where the folder is missing or empty, an image is in no class, a class has no image, or the model
            does not have a class; names it.
    """
    root = resolve_path(folder)
    if not root.is_dir():
        raise DataError(f"{name}: there is no folder {root}. Unpack the images there, or set DETECTRON2_DATASETS.")
    if not labelled:
        files = list_images(root)
        if not files:
            raise DataError(f"{name}: no images ({', '.join(sorted(IMAGE_SUFFIXES))}) below {root}.")
        return [{"file_name": str(file), "image_id": i} for i, file in enumerate(files)]
    classes = _classes(name, root)
    wanted, whose = expected_classes(name)
    wanted = list(wanted or classes)
    dicts = []
    for own, place in zip(classes, positions(classes, wanted)):
        if place is None:
            raise DataError(
                f"{name}: the folder {root / own} is a class that {whose} does not have ({', '.join(wanted)}). Classes "
                "are compared by name: rename or remove the folder."
            )
        files = list_images(root / own)
        if not files:
            raise DataError(f"{name}: the class folder {root / own} has no images. Add some, or remove it.")
        dicts += [{"file_name": str(file), "image_class": place} for file in files]
    set_metadata(name, thing_classes=wanted)
    return [{**x, "image_id": i} for i, x in enumerate(dicts)]


def _classes(name, root):
    """Names of the sub-folders, sorted."""
    if not Path(root).is_dir():
        raise DataError(f"{name}: there is no folder {root}. Unpack the images there, or set DETECTRON2_DATASETS.")
    entries = [p for p in sorted(Path(root).iterdir()) if not is_hidden(p.name)]
    loose = next((p for p in entries if p.suffix.lower() in IMAGE_SUFFIXES and not p.is_dir()), None)
    if loose:
        raise DataError(f"{name}: the image {loose} is in no class folder. Move it into the folder of its class.")
    classes = [p.name for p in entries if p.is_dir()]
    if not classes:
        raise DataError(f"{name}: {root} has no sub-folders. It needs one for each class, with the class's images.")
    return classes
