"""COCO box evaluation with AP50 for each class, which this field reports."""

import itertools
import json
import os

import numpy as np
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import _evaluate_predictions_on_coco

try:
    from faster_coco_eval import COCOeval_faster
except ImportError:  # optional: without it, pycocotools gives the same numbers in ten times the time
    COCOeval_faster = None


class DetectionEvaluator(COCOEvaluator):
    """Detectron2's COCO evaluator; adds ``AP50-<class>`` beside ``AP-<class>``.

    Boxes are evaluated by the C++ of faster-coco-eval where it is installed. Its precisions are pycocotools' to the
    last digits of float64 (sums are taken in another order).
    """

    def __init__(self, *args, use_fast_impl=True, **kwargs):
        """See Detectron2's; ``use_fast_impl`` False evaluates with pycocotools."""
        self._fast_boxes = COCOeval_faster if use_fast_impl else None
        super().__init__(*args, use_fast_impl=use_fast_impl and COCOeval_faster is None, **kwargs)

    def _eval_predictions(self, predictions, img_ids=None):
        found = list(itertools.chain(*[x["instances"] for x in predictions]))
        only_boxes = (self._tasks or self._tasks_from_predictions(found)) in (["bbox"], ("bbox",))
        if self._fast_boxes is None or not (found and only_boxes and self._do_evaluation):
            return super()._eval_predictions(predictions, img_ids)
        contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if contiguous:
            of_dataset = {v: k for k, v in contiguous.items()}
            for x in found:
                x["category_id"] = of_dataset[x["category_id"]]
        if self._output_dir:
            with open(os.path.join(self._output_dir, "coco_instances_results.json"), "w", encoding="utf-8") as f:
                json.dump(found, f)
        self._logger.info("Evaluating boxes with faster-coco-eval ...")
        evaluated = _evaluate_predictions_on_coco(
            self._coco_api, found, "bbox", cocoeval_fn=self._fast_boxes, img_ids=img_ids,
            max_dets_per_image=self._max_dets_per_image,
        )  # fmt: skip
        self._results["bbox"] = self._derive_coco_results(
            evaluated, "bbox", class_names=self._metadata.get("thing_classes")
        )

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
        coco, contiguous = self._coco_api, self._metadata.get("thing_dataset_id_to_contiguous_id") or {}
        ids = {c: i for i, c in contiguous.items()}
        exists = [bool(coco.getAnnIds(catIds=[ids.get(c, c)], iscrowd=False)) for c in range(len(class_names))]
        if any(exists):
            results.update({k: 0.0 for k in ("AP", "AP50", "AP75")})
        for name, there in zip(class_names, exists):
            results.update({f"{k}-{name}": 0.0 if there else float("nan") for k in ("AP", "AP50")})
        return results
