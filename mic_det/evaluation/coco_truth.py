"""The truth that COCO evaluators compare with: the dataset dicts that training and pictures use too."""

import contextlib
import io

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from pycocotools.coco import COCO

from ..data.classes import expected_classes, positions
from ..data.coco.annotation_file import is_integer, is_labelled, read_coco
from ..data.coco.fields import area_of
from ..data.coco.normalize import read_normalized
from ..errors import DataError


def labelled_dicts(name):
    """Dataset dicts of a registered set, none of whose boxes is lost.

    Detectron2's own loader leaves out boxes whose polygons are not usable: COCO files that were registered by it are
    read again in mic_det's way.

    Raises:
        DataError: where an entry of the file cannot be used, or the set is registered by a user's own code with its
            classes in another order than the model's.
    """
    meta = MetadataCatalog.get(name)
    dicts = DatasetCatalog.get(name)  # names the classes, too
    own, (expected, whose) = meta.get("thing_classes"), expected_classes(name)
    if own and expected and list(own) != list(expected):
        raise DataError(
            f"{name} has the classes {list(own)}, but {whose} has {list(expected)}. Declare the set in "
            "DATASETS.CUSTOM: then they are mapped by name."
        )
    if not meta.get("json_file") or meta.get("repairs") is not None or meta.get("declared"):
        return dicts
    content = read_coco(name, meta.json_file)
    if not is_labelled(content):
        return dicts
    coco = read_normalized(name, meta.json_file, content)
    places = positions(coco.classes, list(own or coco.classes))
    again = coco.dicts(meta.get("image_root") or "")
    for d in again:
        for a in d["annotations"]:
            a["category_id"] = places[a["category_id"]]
    return again


class Truth:
    """A COCO object of dataset dicts, with ids that every evaluator can take.

    Image ids may be anything in the dicts: ``image_numbers`` maps them to the object's. Category ids are 1, 2, ... in
    the order of the model's classes; annotation ids count from 1.
    """

    def __init__(self, dicts, class_names):
        """
        Args:
            dicts (list[dict]): Detectron2's.
            class_names (list[str]): of the model, in the order of its outputs.
        """
        ids = [d["image_id"] for d in dicts]
        plain = all(is_integer(i) and 0 <= i < 2**31 for i in ids)
        self.image_numbers = {i: i if plain else number for number, i in enumerate(ids, start=1)}
        self.has_labels = any("annotations" in d for d in dicts)
        annotations = []
        # pycocotools needs keypoints in all annotations or none
        self._keypoints = max(
            (len(a.get("keypoints") or ()) for d in dicts for a in d.get("annotations", ())), default=0
        )
        for d in dicts:
            for a in d.get("annotations", ()):
                annotations.append(self._annotation(len(annotations) + 1, d, a))
        count = max([len(class_names), *(a["category_id"] for a in annotations)])
        names = [*class_names, *(f"class {i + 1}" for i in range(len(class_names), count))]
        self.coco = COCO()
        self.coco.dataset = {
            "info": {},
            "licenses": [],
            "images": [
                {"id": self.image_numbers[d["image_id"]], **{k: d[k] for k in ("width", "height") if k in d}}
                for d in dicts
            ],
            "annotations": annotations,
            "categories": [{"id": i, "name": str(n)} for i, n in enumerate(names, start=1)],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco.createIndex()

    def _annotation(self, number, d, annotation):
        box = annotation["bbox"]
        if annotation["bbox_mode"] != BoxMode.XYWH_ABS:
            box = BoxMode.convert(list(map(float, box)), annotation["bbox_mode"], BoxMode.XYWH_ABS)
        entry = {
            "id": number,
            "image_id": self.image_numbers[d["image_id"]],
            "category_id": annotation["category_id"] + 1,
            "bbox": list(box),
            "iscrowd": int(bool(annotation.get("iscrowd", 0))),
            "area": area_of({**annotation, "bbox": box}, d.get("height"), d.get("width")),
        }
        if annotation.get("segmentation"):
            entry["segmentation"] = annotation["segmentation"]
        if self._keypoints:
            points = list(annotation.get("keypoints") or [0.5, 0.5, 0] * (self._keypoints // 3))
            entry["keypoints"] = [v - 0.5 if i % 3 < 2 else v for i, v in enumerate(points)]
            entry["num_keypoints"] = sum(v > 0 for v in points[2::3])
        return entry

    def numbered(self, found):
        """Results in COCO's format, with category ids from 0, as copies with this object's ids."""
        return [
            {**x, "image_id": self.image_numbers[x["image_id"]], "category_id": x["category_id"] + 1} for x in found
        ]
