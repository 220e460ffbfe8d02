"""Classes are compared by name: a test set may list them in another order, case or spacing than the model has them."""

import logging
import unicodedata
from collections import Counter

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import DataError

logger = logging.getLogger(__name__)


def positions(names, wanted):
    """The index in ``wanted`` of each name, None where there is none.

    Names that are the same come first; others may differ in case, spaces and Unicode form where that leaves one choice.
    """
    exact = {n: i for i, n in enumerate(wanted)}
    found = [exact.get(n) for n in names]
    free = [i for i in range(len(wanted)) if i not in found]
    alike = _by_folded(wanted, free)
    ours = Counter(_folded(n) for n, f in zip(names, found) if f is None)
    return [
        f if f is not None else (alike.get(_folded(n)) if ours[_folded(n)] == 1 else None) for n, f in zip(names, found)
    ]


def _folded(name):
    return " ".join(unicodedata.normalize("NFKC", str(name)).split()).casefold()


def _by_folded(names, indices):
    counts = Counter(_folded(names[i]) for i in indices)
    return {_folded(names[i]): i for i in indices if counts[_folded(names[i])] == 1}


def set_metadata(name, **values):
    """Metadata that may differ from what a set had before: Detectron2's own ``set`` refuses that."""
    meta = MetadataCatalog.get(name)
    for key, value in values.items():
        meta.__dict__.pop(key, None)
        if value is not None:
            meta.set(**{key: value})


def expect_classes(source=None, classes=None, except_for=()):
    """Whose classes the model has: all registered sets are brought into their order when they are loaded.

    Args:
        source (str): the set that the model is trained on, or
        classes (list[str]): the model's classes themselves.
        except_for (collection of str): sets whose labels are not used.
    """
    for name in DatasetCatalog.list():
        if name in except_for:
            set_metadata(name, classes_from=None, model_classes=None)
        else:
            set_metadata(name, classes_from=source, model_classes=classes)


def stated_classes():
    """The model's classes that :func:`expect_classes` was given, or None."""
    return next(filter(None, (MetadataCatalog.get(n).get("model_classes") for n in DatasetCatalog.list())), None)


def model_class_names(cfg):
    """Names of the model's classes of boxes, in the order of its outputs; None where nothing here tells them.

    Without ``DATASETS.TRAIN`` they are those of ``DATASETS.CLASS_NAMES``, those of the checkpoint
    (:func:`mic_det.checkpoint.class_names.state_model_classes`) or those of the first labelled target set.
    """
    sets = cfg.DATASETS
    if sets.TRAIN:
        return class_names(sets.TRAIN[0])
    named = list(sets.CLASS_NAMES) or stated_classes()
    return named or (class_names(sets.TARGET_LABELLED[0]) if sets.TARGET_LABELLED else None)


def known_class_names(cfg):
    """As :func:`model_class_names`, without reading a file: (), where the training's sets were not loaded yet."""
    if cfg.DATASETS.TRAIN:
        return tuple(MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes", ()))
    labelled = cfg.DATASETS.TARGET_LABELLED
    of_target = MetadataCatalog.get(labelled[0]).get("thing_classes", ()) if labelled else ()
    return tuple(cfg.DATASETS.CLASS_NAMES or stated_classes() or of_target)


def label_names(cfg, kind):
    """Names of the model's classes of a kind of label, without reading a file; () where they are not known.

    Args:
        kind (str): "boxes", "pixels" or "image_class".
    """
    if kind != "pixels":
        return known_class_names(cfg)
    sets = cfg.DATASETS
    known = (MetadataCatalog.get(n).get("stuff_classes") for n in (*sets.TRAIN, *sets.TARGET_LABELLED, *sets.TEST))
    return tuple(next(filter(None, known), ()))


def class_order(name, classes, used):
    """The model's classes, and the place among them of each class of a set.

    Args:
        name (str): a registered set, which :func:`expect_classes` may know.
        classes (list[str]): the set's own.
        used (collection of int): indices of those that have boxes.

    Returns:
        (list[str], list[int or None]): None for a class without boxes that the model does not have.

    Raises:
        DataError: where a box has a class that the model lacks, or a class of the model is not listed.
    """
    wanted, whose = expected_classes(name)
    if not wanted or wanted == classes:
        return list(classes), list(range(len(classes)))
    found = positions(classes, wanted)
    unknown = [c for i, (c, f) in enumerate(zip(classes, found)) if f is None and i in used]
    absent = [c for i, c in enumerate(wanted) if i not in found]
    if unknown or absent:
        what = [f"the model does not have {', '.join(map(repr, unknown))}"] * bool(unknown)
        what += [f"{', '.join(map(repr, absent))} is not listed"] * bool(absent)
        raise DataError(
            f"{name} has the classes {list(classes)}, but {whose} has {list(wanted)}: {' and '.join(what)}. "
            "Classes are compared by name: rename them, or list all of the model's in 'categories'."
        )
    return list(wanted), found


def expected_classes(name):
    """The model's classes as far as they are known for a set, and whose they are; (None, "") where they are not."""
    meta = MetadataCatalog.get(name)
    if meta.get("model_classes"):
        return meta.model_classes, "the model"
    source = meta.get("classes_from")
    if not source or source == name:
        return None, ""
    return class_names(source), source


def class_names(name):
    """Names of a registered set's classes in the model's order; None where the set is not here to tell."""
    if name in DatasetCatalog.list() and MetadataCatalog.get(name).get("thing_classes"):
        return MetadataCatalog.get(name).thing_classes
    return [n for _, n in categories(name)] or None


def categories(name):
    """(id in results files, name) of each of a registered set's classes, in its own order; [] where it cannot tell."""
    if name not in DatasetCatalog.list():
        return []
    meta = MetadataCatalog.get(name)
    if meta.get("read_categories"):
        try:
            return meta.read_categories()
        except DataError as e:
            logger.debug("the classes of %s are not known: %s", name, e)
            return []
    ids = {p: i for i, p in (meta.get("thing_dataset_id_to_contiguous_id") or {}).items()}
    return [(ids.get(i, i + 1), n) for i, n in enumerate(meta.get("thing_classes") or ())]


def with_model_classes(name, dicts, classes, ids=None):
    """Give dataset dicts, in place, the model's classes instead of the set's own, and tell the set's metadata.

    Args:
        name (str): a registered set, whose metadata gets ``thing_classes`` and ``thing_dataset_id_to_contiguous_id``.
        dicts (list[dict]): Detectron2's, whose ``category_id`` is an index of ``classes``.
        ids (list): of the classes in results files; None = their indices.

    Returns:
        list[str]: lines for the log, none where the classes are the model's as they stand.

    Raises:
        DataError: see :func:`class_order`.
    """
    annotations = [a for d in dicts for a in d.get("annotations", ())]
    wanted, places = class_order(name, classes, {a["category_id"] for a in annotations})
    if places != list(range(len(classes))):
        for a in annotations:
            a["category_id"] = places[a["category_id"]]
    ids = range(len(classes)) if ids is None else ids
    of_model = {i: p for i, p in zip(ids, places) if p is not None}
    set_metadata(name, thing_classes=wanted, thing_dataset_id_to_contiguous_id=of_model)
    return _describe_mapping(classes, wanted, places)


def _describe_mapping(classes, wanted, places):
    if list(classes) == wanted:
        return []
    lines = [f"classes are mapped by name to {', '.join(wanted)} (the set's own order: {', '.join(classes)})."]
    left_out = [c for c, p in zip(classes, places) if p is None]
    if left_out:
        lines.append(f"classes without a box that the model does not have are left out: {', '.join(left_out)}.")
    return lines
