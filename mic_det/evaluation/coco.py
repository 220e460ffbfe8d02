"""COCO box evaluation with AP50 for each class, which this field reports."""

import itertools
import json
import logging
import os

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import _evaluate_predictions_on_coco
from pycocotools.cocoeval import COCOeval

from ..utils.atomic_files import write_whole
from .coco_truth import Truth, labelled_dicts

try:
    from faster_coco_eval import COCOeval_faster
except ImportError:  # optional: without it, pycocotools gives the same numbers in ten times the time
    COCOeval_faster = None


class DetectionEvaluator(COCOEvaluator):
    """Detectron2's COCO evaluator; adds ``AP50-<class>`` beside ``AP-<class>``.

    It compares with the dataset dicts, that is with what training and pictures see (:class:`Truth`), not with the
    annotation file once more. Results files have the ids of that file. Boxes are evaluated by the C++ of
    faster-coco-eval where it is installed. Its precisions are pycocotools' to the last digits of float64 (sums are
    taken in another order).
    """

    def __init__(
        self, dataset_name, tasks=None, distributed=True, output_dir=None, *, max_dets_per_image=None,
        use_fast_impl=True, kpt_oks_sigmas=(),
    ):  # fmt: skip
        """See Detectron2's; ``use_fast_impl`` False evaluates with pycocotools.

        Raises:
            DataError: where the set cannot be loaded.
        """
        # In place of COCOEvaluator's constructor, which opens the annotation file as it is
        self._logger = logging.getLogger(__name__)
        self._tasks, self._distributed, self._output_dir = tasks, distributed, output_dir
        self._max_dets_per_image = [1, 10, 100 if max_dets_per_image is None else max_dets_per_image]
        self._fast_boxes = COCOeval_faster if use_fast_impl else None
        self._use_fast_impl, self._kpt_oks_sigmas = False, kpt_oks_sigmas
        self._cpu_device = torch.device("cpu")
        self._metadata = MetadataCatalog.get(dataset_name)
        dicts = labelled_dicts(dataset_name)
        self._truth = Truth(dicts, self._metadata.get("thing_classes") or ())
        self._coco_api, self._do_evaluation = self._truth.coco, self._truth.has_labels

    def _eval_predictions(self, predictions, img_ids=None):
        found = list(itertools.chain(*[x["instances"] for x in predictions]))
        self._write_results(found)
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return
        if img_ids is not None:
            img_ids = [self._truth.image_numbers[i] for i in img_ids]
        for task in sorted(self._tasks or self._tasks_from_predictions(found)):
            fast = self._fast_boxes if task == "bbox" and self._max_dets_per_image[2] == 100 else None
            self._logger.info("Evaluating %s with %s ...", task, "faster-coco-eval" if fast else "pycocotools")
            evaluated = None
            if found:
                evaluated = _evaluate_predictions_on_coco(
                    self._coco_api, self._truth.numbered(found), task, kpt_oks_sigmas=self._kpt_oks_sigmas,
                    cocoeval_fn=fast or COCOeval, img_ids=img_ids, max_dets_per_image=self._max_dets_per_image,
                )  # fmt: skip
            self._results[task] = self._derive_coco_results(
                evaluated, task, class_names=self._metadata.get("thing_classes")
            )

    def _write_results(self, found):
        """``coco_instances_results.json`` with the ids of the set's annotation file."""
        if not self._output_dir:
            return
        ids = {p: i for i, p in (self._metadata.get("thing_dataset_id_to_contiguous_id") or {}).items()}
        content = json.dumps([{**x, "category_id": ids.get(x["category_id"], x["category_id"])} for x in found])
        file = os.path.join(self._output_dir, "coco_instances_results.json")
        write_whole(file, lambda f: f.write(content.encode("utf-8")))

    def _eval_box_proposals(self, predictions):
        numbers = self._truth.image_numbers
        super()._eval_box_proposals([{**p, "image_id": numbers[p["image_id"]]} for p in predictions])

    def _derive_coco_results(self, coco_eval, iou_type, class_names=None):
        results = super()._derive_coco_results(coco_eval, iou_type, class_names)
        if coco_eval is None:
            return self._nothing_found(results, class_names or ())
        if not class_names:
            return results
        # precision: (IoU thresholds, recalls, classes, areas, max detections); -1 = class without truth
        precision = coco_eval.eval["precision"][0, :, :, 0, -1]
        for i, name in enumerate(class_names):
            valid = precision[:, i][precision[:, i] > -1]
            results[f"AP50-{name}"] = float(np.mean(valid) * 100) if valid.size else float("nan")
        return results

    def _nothing_found(self, results, class_names):
        """AP where there is not a single detection: 0 for what there is to find; Detectron2 calls all undefined."""
        exists = [bool(self._coco_api.getAnnIds(catIds=[c + 1], iscrowd=False)) for c in range(len(class_names))]
        if any(exists):
            results.update({k: 0.0 for k in ("AP", "AP50", "AP75")})
        for name, there in zip(class_names, exists):
            results.update({f"{k}-{name}": 0.0 if there else float("nan") for k in ("AP", "AP50")})
        return results
