"""Predictions as files that other programs read: COCO JSON and CSV."""

import csv
import io
import json
import time

import numpy as np

FILES = {"coco": ("predictions.json", "coco_instances_results.json"), "csv": ("predictions.csv",)}
CSV_COLUMNS = (
    "image_id", "file", "frame", "image_width", "image_height", "category_id", "class", "score",
    "x_min", "y_min", "x_max", "y_max",
)  # fmt: skip


class Predictions:
    """Collects the boxes of many images, and makes files of them. COCO files also have their masks and keypoints.

    An image keeps its id in all files. A video's frame is an image of its own, named ``VIDEO#FRAME``.
    """

    def __init__(self, classes, keypoint_classes=None):
        """
        Args:
            classes (list[(int, str)]): category id and name of each class of the detector.
            keypoint_classes (list[int]): numbers of the classes that have keypoints; None = all.
        """
        self.classes, self.keypoint_classes = classes, keypoint_classes
        self.images, self.annotations = [], []

    def add(self, frame, detections, masks=None, keypoints=None):
        """
        Args:
            frame (Frame): what was looked at.
            detections (Detections): N boxes in its pixels; None where the model has no boxes.
            masks (array): (N, H, W) bool, where the model has instance masks.
            keypoints (array): (N, K, 3) with rows (x, y, score), where the model has keypoints. As in Detectron2, the
                centre of the first pixel is at 0.5.
        """
        height, width = frame.rgb.shape[:2]
        image = {"id": len(self.images) + 1, "file_name": frame.name, "width": width, "height": height}
        if frame.index is not None:
            image.update(video=frame.source.name, frame_index=frame.index)
        self.images.append(image)
        if detections is None:
            return
        for i, ((x0, y0, x1, y1), label, score) in enumerate(zip(*(x.tolist() for x in _columns(detections)))):
            more = _mask_as_rle(masks[i]) if masks is not None else {}
            if keypoints is not None and self._has_keypoints(label):
                more.update(_keypoints_as_coco(keypoints[i]))
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": image["id"],
                    "category_id": self.classes[label][0],
                    "bbox": [round(v, 3) for v in (x0, y0, x1 - x0, y1 - y0)],
                    "area": round((x1 - x0) * (y1 - y0), 3),
                    "iscrowd": 0,
                    "score": round(score, 5),
                    **more,
                }
            )

    def _has_keypoints(self, label):
        return self.keypoint_classes is None or label in self.keypoint_classes

    def coco(self):
        """``predictions.json``, a whole COCO file, and ``coco_instances_results.json``, the bare list, as texts.

        ``COCO("predictions.json")`` reads the first; ``loadRes`` of it takes the second.
        """
        categories = [{"id": i, "name": name} for i, name in self.classes]
        whole = {"images": self.images, "annotations": self.annotations, "categories": categories}
        results = [_as_result(a) for a in self.annotations]
        return {name: _json(x) for name, x in zip(FILES["coco"], (whole, results))}

    def csv(self):
        """``predictions.csv`` as a text: one line a box, XYXY pixels; images without a box have none."""
        images, names, text = {x["id"]: x for x in self.images}, dict(self.classes), io.StringIO()
        writer = csv.writer(text)
        writer.writerow(CSV_COLUMNS)
        for a in self.annotations:
            image, (x, y, w, h) = images[a["image_id"]], a["bbox"]
            file, frame = image.get("video", image["file_name"]), image.get("frame_index", "")
            row = [image["id"], file, frame, image["width"], image["height"], a["category_id"]]
            row += [names[a["category_id"]], a["score"], x, y, round(x + w, 3), round(y + h, 3)]
            writer.writerow([v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for v in row])
        return {FILES["csv"][0]: text.getvalue()}


class PredictionFiles:
    """Writes predictions while they grow: whatever ends the program, files hold all except the last seconds.

    Each time the files are written whole, and take the place of the earlier ones at once.
    """

    PERIOD = 5.0  # seconds between two times, and at least
    SHARE = 20  # pause as a multiple of the time that writing takes: it costs at most 5 % of the time

    def __init__(self, predictions, outputs, formats):
        """
        Args:
            predictions (Predictions), outputs (Outputs): what, and where to.
            formats (sequence of str): of "coco", "csv"; others are left alone.
        """
        self.predictions, self.outputs = predictions, outputs
        self.makers = [{"coco": predictions.coco, "csv": predictions.csv}[f] for f in formats if f in FILES]
        self.cost, self.last = 0.0, time.monotonic()

    def update(self):
        """Write where it is time to."""
        if time.monotonic() - self.last > max(self.PERIOD, self.SHARE * self.cost):
            self.write()

    def write(self):
        """
        Raises:
            DataError: where a file cannot be written.
        """
        start = time.monotonic()
        for maker in self.makers:
            for name, text in maker().items():
                self.outputs.write_text(name, text)
        self.last = time.monotonic()
        self.cost = self.last - start


def _columns(detections):
    return detections.boxes.astype(float), detections.classes, detections.scores.astype(float)


def _mask_as_rle(mask):
    from pycocotools import mask as rle  # here, because models without masks run without it

    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}}


def _keypoints_as_coco(keypoints):
    """COCO counts from the centre of the first pixel, and marks a labelled keypoint by 2."""
    rows = [[round(float(x) - 0.5, 3), round(float(y) - 0.5, 3), 2] for x, y, _ in keypoints]
    scores = [round(float(score), 5) for _, _, score in keypoints]
    return {"keypoints": sum(rows, []), "num_keypoints": len(rows), "keypoint_scores": scores}


def _as_result(annotation):
    """An annotation as an entry of a results file, where a keypoint's third value is its score."""
    keys = ("image_id", "category_id", "bbox", "score", "segmentation")
    result = {k: annotation[k] for k in keys if k in annotation}
    if "keypoints" in annotation:
        points, scores = annotation["keypoints"], annotation["keypoint_scores"]
        result["keypoints"] = sum(([*points[3 * i : 3 * i + 2], s] for i, s in enumerate(scores)), [])
    return result


def _json(content):
    text = json.dumps(content, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a file's name that is no text; as an escape it comes back as it was
        text = json.dumps(content)
    return text
