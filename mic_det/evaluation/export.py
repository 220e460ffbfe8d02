"""Predictions as files that other programs read: COCO JSON and CSV."""

import csv
import json
from pathlib import Path

from ..data.catalog import DataError

CSV_COLUMNS = (
    "image_id", "file", "frame", "image_width", "image_height", "category_id", "class", "score",
    "x_min", "y_min", "x_max", "y_max",
)  # fmt: skip


class Predictions:
    """Collects the boxes of many images, then writes them.

    An image keeps its id in all files. A video's frame is an image of its own, named ``VIDEO#FRAME``.
    """

    def __init__(self, classes):
        """
        Args:
            classes (list[(int, str)]): category id and name of each class of the detector.
        """
        self.classes = classes
        self.images, self.annotations = [], []

    def add(self, frame, instances):
        """
        Args:
            frame (Frame): what was looked at.
            instances (Instances): ``pred_boxes`` in its pixels, ``pred_classes`` and ``scores``; None where the model
                has no boxes.
        """
        height, width = frame.rgb.shape[:2]
        image = {"id": len(self.images) + 1, "file_name": frame.name, "width": width, "height": height}
        if frame.index is not None:
            image.update(video=frame.source.name, frame_index=frame.index)
        self.images.append(image)
        if instances is None:
            return
        boxes = instances.pred_boxes.tensor.double().tolist()
        for (x0, y0, x1, y1), label, score in zip(
            boxes, instances.pred_classes.tolist(), instances.scores.double().tolist()
        ):
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": image["id"],
                    "category_id": self.classes[label][0],
                    "bbox": [round(v, 3) for v in (x0, y0, x1 - x0, y1 - y0)],
                    "area": round((x1 - x0) * (y1 - y0), 3),
                    "iscrowd": 0,
                    "score": round(score, 5),
                }
            )

    def write_coco(self, folder):
        """Write ``predictions.json``, a whole COCO file, and ``coco_instances_results.json``, the bare list.

        ``COCO("predictions.json")`` reads the first; ``loadRes`` of it takes the second.
        """
        categories = [{"id": i, "name": name} for i, name in self.classes]
        whole = {"images": self.images, "annotations": self.annotations, "categories": categories}
        results = [{k: a[k] for k in ("image_id", "category_id", "bbox", "score")} for a in self.annotations]
        paths = Path(folder) / "predictions.json", Path(folder) / "coco_instances_results.json"
        for path, content in zip(paths, (whole, results)):
            with _open(path) as f:
                json.dump(content, f, ensure_ascii=False)
        return paths

    def write_csv(self, folder):
        """Write ``predictions.csv``: one line a box, XYXY pixels; images without a box have none."""
        path = Path(folder) / "predictions.csv"
        images, names = {x["id"]: x for x in self.images}, dict(self.classes)
        with _open(path) as f:
            writer = csv.writer(f)
            writer.writerow(CSV_COLUMNS)
            for a in self.annotations:
                image, (x, y, w, h) = images[a["image_id"]], a["bbox"]
                file, frame = image.get("video", image["file_name"]), image.get("frame_index", "")
                row = [image["id"], file, frame, image["width"], image["height"], a["category_id"]]
                row += [names[a["category_id"]], a["score"], x, y, round(x + w, 3), round(y + h, 3)]
                writer.writerow(row)
        return (path,)


def _open(path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "w", encoding="utf-8", newline="")
    except OSError as e:
        raise DataError(f"cannot write {path} ({e.strerror}): check --output.") from e
