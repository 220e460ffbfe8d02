"""Registered sets that are read as they are unpacked: one way to register them, and to find their files."""

from detectron2.data import DatasetCatalog, MetadataCatalog

from ...errors import DataError
from ..custom_sets import resolve_path
from ..files import glob_files


def register_set(name, load, **metadata):
    """Register a set, unless its name is taken. No file is read before the set is loaded.

    Args:
        name (str)
        load (callable): () -> dataset dicts.
        metadata: of the set.
    """
    if name not in DatasetCatalog.list():
        DatasetCatalog.register(name, load)
        MetadataCatalog.get(name).set(**metadata)


def set_folder(name, relative):
    """The folder of a set below ``$DETECTRON2_DATASETS``.

    Raises:
        DataError: where it is missing; names it.
    """
    root = resolve_path(relative)
    if not root.is_dir():
        raise DataError(
            f"{name}: there is no folder {root} (docs/datasets.md shows the expected one). Unpack the data there, or "
            "set DETECTRON2_DATASETS."
        )
    return root


def set_files(name, folder, pattern):
    """The files of a set that have a pattern, sorted.

    Raises:
        DataError: where there is none.
    """
    files = glob_files(folder, pattern)
    if not files:
        raise DataError(f"{name}: there is no {pattern} in {folder}. docs/datasets.md shows the layout.")
    return files
