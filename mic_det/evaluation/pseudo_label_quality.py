"""How good a teacher's pseudo-labels are: for analysis alone, never for training."""

import logging
import os

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances, pairwise_iou
from detectron2.utils import comm
from torch import nn

from ..data.loader import build_test_loader
from .coco import DetectionEvaluator
from .sem_seg import LabelMapEvaluator


def evaluate_pseudo_labels(cfg, model):
    """Measure the teacher's pseudo-labels on the set that ``TEST.PSEUDO_LABELS.DATASET`` names.

    Args:
        cfg (CfgNode): also ``TEST.PSEUDO_LABELS.MAX_IMAGES``, evenly spread over the set; 0 = all.
        model (MIC): not wrapped for distributed training.

    Returns:
        dict[str, float]: see :class:`PseudoLabelEvaluator`; empty where this is not the main process.
    """
    name, most = cfg.TEST.PSEUDO_LABELS.DATASET, cfg.TEST.PSEUDO_LABELS.MAX_IMAGES
    dicts = DatasetCatalog.get(name)
    if most and len(dicts) > most:
        dicts = [dicts[i] for i in np.linspace(0, len(dicts) - 1, most).astype(int)]
    loader = build_test_loader(cfg, dicts)
    folder = os.path.join(cfg.OUTPUT_DIR, "inference", f"{name}_pseudo_labels")
    model.update_teacher()
    evaluator = PseudoLabelEvaluator(name, dicts, model, folder)
    results = inference_on_dataset(PseudoLabels(model), loader, evaluator).get("pseudo_labels", {})
    if results:
        shown = ("images", "classes", "agreement", "precision", "recall", "AP50", "mIoU")
        text = ", ".join(f"{k} {results[k]:.1f}" for k in shown if k in results)
        logging.getLogger(__name__).info("Pseudo-labels of %d images of %s: %s", len(dicts), name, text)
    return results


class PseudoLabels(nn.Module):
    """MIC's pseudo-labels of images, in the size of their files: an answer of Detectron2's format.

    ``"instances"`` are the teacher's pseudo-boxes, ``"student"`` what the student would make of the same images
    by the same rules; ``"sem_seg"`` is 1 at the teacher's label of each pixel, (classes, height, width).
    """

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.training = model.training  # Detectron2 restores the mode that it finds here, in the model too

    def forward(self, batched_inputs):
        model, answers = self.model, [{} for _ in batched_inputs]
        for key, source in (("instances", model.teacher), ("student", model.student)):
            for kind, pseudo in model.pseudo_labels(batched_inputs, source).items():
                ANSWERS[kind](answers, key, pseudo, batched_inputs, source)
        return answers


def _box_answers(answers, key, pseudo, inputs, model):
    for answer, x, boxes in zip(answers, inputs, pseudo.boxes):
        answer[key] = detector_postprocess(_as_detections(boxes), x["height"], x["width"])


def _pixel_answers(answers, key, pseudo, inputs, model):
    if key == "instances":  # of the teacher alone
        for answer, x, pixels in zip(answers, inputs, pseudo.pixels):
            answer["sem_seg"] = _one_hot(pixels.labels, model.sem_seg_head, x["height"], x["width"])


def _class_answers(answers, key, pseudo, inputs, model):
    for answer, label in zip(answers, pseudo.labels):
        answer["image_class" if key == "instances" else "student"] = int(label)


# Each kind's pseudo-labels, put into the answers
ANSWERS = {"boxes": _box_answers, "pixels": _pixel_answers, "image_class": _class_answers}


def _as_detections(pseudo):
    return Instances(
        pseudo.image_size, pred_boxes=pseudo.gt_boxes, scores=pseudo.scores, pred_classes=pseudo.gt_classes
    )  # fmt: skip


def _one_hot(labels, head, height, width):
    resized = nn.functional.interpolate(labels[None, None].float(), size=(height, width), mode="nearest-exact")
    return nn.functional.one_hot(resized[0, 0].long(), head.predictor.out_channels).permute(2, 0, 1).byte()


class PseudoLabelEvaluator(DatasetEvaluator):
    """Results ``pseudo_labels``, in per cent except the first:

    - ``boxes``: pseudo-boxes an image;
    - ``images``: share of images with a pseudo-box; ``classes``: share of classes with one anywhere;
    - ``agreement`` of teacher and student: 2 m / (t + s) of t and s pseudo-boxes, m of them pairs of one class
      with IoU >= 0.5.

    Where the set has labels also, of boxes at IoU 0.5 and with pycocotools' matching (crowds do not count),
    ``precision``, ``recall``, ``AP50``, and each for every class (``precision-car``); with label maps ``mIoU`` and
    ``IoU-road``. Of image classes there are ``agreement`` (same class of teacher and student) and, with labels,
    ``precision``, the share of images whose pseudo-label is right.
    """

    def __init__(self, name, dicts, model, output_dir):
        """
        Args:
            name (str): a registered set; ``dicts`` are those of its images that are measured.
            output_dir (str): where pycocotools' inputs go.
        """
        parts = [QUALITIES[task.name](task, name, dicts, model, output_dir) for task in model.tasks]
        self.parts = sorted(parts, key=lambda part: part.name)

    def reset(self):
        for part in self.parts:
            part.reset()

    def process(self, inputs, outputs):
        for part in self.parts:
            part.process(inputs, outputs)

    def evaluate(self):
        results = {}
        for part in self.parts:
            results.update(part.evaluate())
        return {"pseudo_labels": results} if comm.is_main_process() else {}


class _BoxPart:
    """What :class:`PseudoLabelEvaluator` says of boxes."""

    name = "boxes"

    def __init__(self, task, dataset_name, dicts, model, output_dir):
        self.image_ids = [d["image_id"] for d in dicts]
        self.num_classes = task.num_classes(model.teacher)
        labelled = any(d.get("annotations") for d in dicts)
        self.quality = _BoxQuality(dataset_name, output_dir=output_dir) if labelled else None

    def reset(self):
        self.counts = []  # (boxes, student's boxes, pairs) an image
        self.per_class = torch.zeros(self.num_classes, dtype=torch.int64)
        if self.quality is not None:
            self.quality.reset()

    def process(self, inputs, outputs):
        if self.quality is not None:
            self.quality.process(inputs, outputs)
        for output in outputs:
            teacher, student = output["instances"].to("cpu"), output["student"].to("cpu")
            self.counts.append((len(teacher), len(student), number_of_pairs(teacher, student)))
            self.per_class += torch.bincount(teacher.pred_classes, minlength=self.num_classes)

    def evaluate(self):
        results = {}
        gathered = comm.gather((self.counts, self.per_class), dst=0)
        if comm.is_main_process():
            counts = np.array([c for counts, _ in gathered for c in counts]).reshape(-1, 3)
            total, student, pairs = counts.sum(axis=0).tolist()
            results["boxes"] = total / max(len(counts), 1)
            results["images"] = 100 * float((counts[:, 0] > 0).mean())
            results["classes"] = 100 * float((sum(c for _, c in gathered) > 0).float().mean())
            results["agreement"] = 200 * pairs / (total + student) if total + student else float("nan")
        if self.quality is not None:
            results.update(self.quality.evaluate(img_ids=self.image_ids).get("bbox", {}))
        return results


class _PixelPart:
    """What :class:`PseudoLabelEvaluator` says of label maps: nothing where the set lacks them."""

    name = "pixels"

    def __init__(self, task, dataset_name, dicts, model, output_dir):
        labelled = all(os.path.isfile(d.get("sem_seg_file_name") or "") for d in dicts)
        named = MetadataCatalog.get(dataset_name).get("stuff_classes")
        self.quality = LabelMapEvaluator(dataset_name) if labelled and named else None

    def reset(self):
        if self.quality is not None:
            self.quality.reset()

    def process(self, inputs, outputs):
        if self.quality is not None:
            self.quality.process(inputs, outputs)

    def evaluate(self):
        found = (self.quality.evaluate() or {}).get("sem_seg", {}) if self.quality is not None else {}
        return {k: v for k, v in found.items() if k.startswith(("mIoU", "IoU-"))}


class _ClassPart:
    """What :class:`PseudoLabelEvaluator` says of image classes: agreement, and the share that is right."""

    name = "image_class"

    def __init__(self, task, dataset_name, dicts, model, output_dir):
        self.truth = {d["image_id"]: d.get("image_class") for d in dicts}

    def reset(self):
        self.labels = []  # (true, teacher's, student's class) of each image

    def process(self, inputs, outputs):
        for x, output in zip(inputs, outputs):
            self.labels.append((self.truth[x["image_id"]], output["image_class"], output["student"]))

    def evaluate(self):
        labels = [x for part in comm.gather(self.labels, dst=0) for x in part]
        if not labels:
            return {}
        known = [(true, teacher) for true, teacher, _ in labels if true is not None]
        results = {"agreement": 100 * sum(t == s for _, t, s in labels) / len(labels)}
        if known:
            results["precision"] = 100 * sum(true == teacher for true, teacher in known) / len(known)
        return results


QUALITIES = {part.name: part for part in (_BoxPart, _PixelPart, _ClassPart)}


def number_of_pairs(first, second, iou=0.5):
    """Pairs of two detectors' boxes of one class that overlap by ``iou`` or more, each box in at most one pair.

    Boxes are paired greedily, the largest overlap first.

    Args:
        first, second (Instances): with ``pred_boxes`` and ``pred_classes``, in the same frame.
    """
    overlaps = pairwise_iou(first.pred_boxes, second.pred_boxes)
    overlaps = overlaps * (first.pred_classes[:, None] == second.pred_classes[None])
    pairs = 0
    while overlaps.numel() and overlaps.max() >= iou:
        i, j = divmod(int(overlaps.argmax()), overlaps.shape[1])
        overlaps[i], overlaps[:, j] = 0, 0
        pairs += 1
    return pairs


class _BoxQuality(DetectionEvaluator):
    """Precision and recall at IoU 0.5 beside AP50, of boxes that are taken as they are."""

    def __init__(self, *args, **kwargs):
        # the matches of single boxes, which the C++ implementation keeps to itself
        super().__init__(*args, tasks=("bbox",), use_fast_impl=False, **kwargs)

    def _derive_coco_results(self, coco_eval, iou_type, class_names=None):
        found = super()._derive_coco_results(coco_eval, iou_type, class_names)
        names = list(class_names or [])
        if coco_eval is None:  # not a single box: everything is missed
            return {"precision": float("nan"), "recall": 0.0, "AP50": 0.0}
        counts = np.zeros((len(coco_eval.params.catIds), 3))  # right, wrong, true boxes
        index = {c: i for i, c in enumerate(coco_eval.params.catIds)}
        everything = coco_eval.params.areaRng[0]
        for image in coco_eval.evalImgs:
            if image is None or image["aRng"] != everything:
                continue
            counted = ~image["dtIgnore"][0].astype(bool)
            right = image["dtMatches"][0].astype(bool) & counted
            truth = (np.asarray(image["gtIgnore"]) == 0).sum()
            counts[index[image["category_id"]]] += right.sum(), (counted & ~right).sum(), truth
        results = {"AP50": found["AP50"], **_precision_recall(counts.sum(axis=0))}
        for name, row in zip(names, counts):
            results.update({f"{k}-{name}": v for k, v in _precision_recall(row).items()})
            results[f"AP50-{name}"] = found[f"AP50-{name}"]
        return results


def _precision_recall(counts):
    right, wrong, truth = counts
    nan = float("nan")
    return {
        "precision": 100 * right / (right + wrong) if right + wrong else nan,
        "recall": 100 * right / truth if truth else nan,
    }
