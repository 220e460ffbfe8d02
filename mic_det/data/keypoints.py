"""Keypoints of data sets: their names, which keypoint is which after a flip, and what joins them in pictures.

A COCO file names the keypoints of a class in its category: ``"keypoints"`` (names) and ``"skeleton"`` (pairs of numbers
from 1 on). Detectron2 has these facts in the metadata of a set. ``keypoint_classes`` is added: the classes that have
keypoints. All of them have the same ones, because a model has one keypoint head for all classes.
"""

from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import create_keypoint_hflip_indices

from ..config.keypoint_rules import predicts_keypoints
from ..errors import DataError
from .classes import set_metadata

SIDES = (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"))
LINE_COLOR = (255, 255, 0)  # RGB


def flip_map(names):
    """Pairs (left, right) of names that change places where an image is mirrored: they differ in these words alone."""
    pairs = []
    for name in names:
        for left, right in SIDES:
            other = name.replace(left, right)
            if left in name and other in names:
                pairs.append((name, other))
                break
    return pairs


def set_keypoint_metadata(name, categories):
    """State the keypoints of a registered set in its metadata; none where its categories have none, or not the same.

    Args:
        name (str): a set whose metadata has ``thing_classes`` and ``thing_dataset_id_to_contiguous_id``.
        categories (list[dict]): of its COCO file.
    """
    with_keypoints = [c for c in categories if _names(c)]
    names = _names(with_keypoints[0]) if with_keypoints else None
    if not names or any(_names(c) != names for c in with_keypoints):
        keys = ("names", "flip_map", "connection_rules", "classes")
        set_metadata(name, **dict.fromkeys(f"keypoint_{key}" for key in keys))
        return
    metadata = MetadataCatalog.get(name)
    classes, of_model = metadata.thing_classes, metadata.thing_dataset_id_to_contiguous_id
    set_metadata(
        name,
        keypoint_names=names,
        keypoint_flip_map=flip_map(names),
        keypoint_connection_rules=_rules(names, with_keypoints[0].get("skeleton")),
        keypoint_classes=[classes[of_model[c["id"]]] for c in with_keypoints if c["id"] in of_model],
    )


def _names(category):
    names = category.get("keypoints")
    is_list = isinstance(names, list) and all(isinstance(x, str) and x for x in names) and len(set(names)) == len(names)
    return list(names) if is_list else []


def _rules(names, skeleton):
    """Detectron2's ``keypoint_connection_rules`` of COCO's skeleton; pairs that are not of the names are left out."""
    rules = []
    for pair in skeleton if isinstance(skeleton, list) else ():
        known = isinstance(pair, (list, tuple)) and len(pair) == 2 and all(i in range(1, len(names) + 1) for i in pair)
        if known:
            rules.append((names[pair[0] - 1], names[pair[1] - 1], LINE_COLOR))
    return rules


def keypoint_classes(name):
    """Numbers of the classes of a registered set that have keypoints; None where nothing tells (all have them).

    The set is loaded if it has not been loaded yet.
    """
    metadata = _loaded(name)
    named = metadata.get("keypoint_classes")
    return None if named is None else [i for i, c in enumerate(metadata.thing_classes) if c in named]


def keypoint_lines(name):
    """Pairs of numbers of keypoints of a registered set that are joined by a line; none where nothing tells.

    The set is loaded if it has not been loaded yet.
    """
    metadata = _loaded(name)
    names, rules = metadata.get("keypoint_names"), metadata.get("keypoint_connection_rules")
    return [(names.index(a), names.index(b)) for a, b, _ in rules or ()] if names else []


def hflip_indices(name):
    """Of each keypoint, the number of the keypoint that takes its place where an image is mirrored.

    The set is loaded if it has not been loaded yet.

    Raises:
        DataError: where its keypoints have no names.
    """
    if not _loaded(name).get("keypoint_names"):
        raise DataError(_no_names(name))
    return create_keypoint_hflip_indices([name])


def _loaded(name):
    metadata = MetadataCatalog.get(name)
    if not metadata.get("keypoint_names") and name in DatasetCatalog.list():
        DatasetCatalog.get(name)
    return MetadataCatalog.get(name)


def without_gaps(annotations, num_keypoints):
    """Give each annotation without keypoints, in place, those of visibility 0. Detectron2 needs them in all or none."""
    for annotation in annotations:
        if not annotation.get("keypoints"):
            annotation["keypoints"] = [0.0] * (3 * num_keypoints)


def check_keypoints(cfg, key, name, dicts, first=None):
    """With ``MODEL.KEYPOINT_ON``, a labelled set must have keypoints, as many as the model's and in its order.

    Args:
        key (str): of ``DATASETS``, which names the set.
        first (str): the set that was checked first.

    Raises:
        DataError: says what is missing, and the remedy.
    """
    if not predicts_keypoints(cfg):
        return
    where, wanted = f"{name} (DATASETS.{key})", cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    annotated = [(d, a) for d in dicts for a in d.get("annotations", ()) if a.get("keypoints")]
    if not any(v > 0 for _, a in annotated for v in a["keypoints"][2::3]):
        raise DataError(
            f"{where} has no keypoints, but MODEL.KEYPOINT_ON is True: add 'keypoints' to the annotations, or set "
            f"MODEL.KEYPOINT_ON False.{_minicity_hint(name)}"
        )
    names = MetadataCatalog.get(name).get("keypoint_names")
    if not names:
        raise DataError(_no_names(name))
    if len(names) != wanted:
        raise DataError(
            f"{where} has {len(names)} keypoints ({', '.join(names)}), but MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is "
            f"{wanted}: set it to {len(names)}."
        )
    wrong = next(((d, a) for d, a in annotated if len(a["keypoints"]) != 3 * wanted), None)
    if wrong:
        raise DataError(
            f"{where}: the box {list(wrong[1]['bbox'])} of {wrong[0]['file_name']} has {len(wrong[1]['keypoints'])} "
            f"numbers in 'keypoints', not 3 for each of the {wanted} keypoints: correct it."
        )
    known = MetadataCatalog.get(first).get("keypoint_names") if first else None
    if known and list(known) != list(names):
        raise DataError(
            f"{where} has the keypoints {', '.join(names)}, but {first} has {', '.join(known)}: both must name the "
            "same ones in the same order."
        )


def _no_names(name):
    return (
        f"{name}: its keypoints have no names, or those of two classes differ. Give each category that has keypoints "
        "the same list 'keypoints' of names in the annotation file."
    )


def _minicity_hint(name):
    file = MetadataCatalog.get(name).get("json_file")
    if not file or not (Path(file).parent.parent / "minicity.json").is_file():
        return ""
    return (
        " This miniature city was made by an earlier version: run datasets/make_minicity.py again with the same "
        "arguments. It adds the keypoints, and the images stay the same."
    )
