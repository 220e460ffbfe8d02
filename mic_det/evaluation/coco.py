"""COCO box evaluation with AP50 for each class, which this field reports."""

import numpy as np
from detectron2.evaluation import COCOEvaluator


class DetectionEvaluator(COCOEvaluator):
    """Detectron2's COCO evaluator; adds ``AP50-<class>`` beside ``AP-<class>``."""

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
