"""COCO box evaluation with AP50 for each class, which this field reports."""

import numpy as np
from detectron2.evaluation import COCOEvaluator


class DetectionEvaluator(COCOEvaluator):
    """Detectron2's COCO evaluator; adds ``AP50-<class>`` beside ``AP-<class>``."""

    def _derive_coco_results(self, coco_eval, iou_type, class_names=None):
        results = super()._derive_coco_results(coco_eval, iou_type, class_names)
        if coco_eval is None or not class_names:
            return results
        # precision: (IoU thresholds, recalls, classes, areas, max detections); -1 = class without truth
        precision = coco_eval.eval["precision"][0, :, :, 0, -1]
        for i, name in enumerate(class_names):
            valid = precision[:, i][precision[:, i] > -1]
            results[f"AP50-{name}"] = float(np.mean(valid) * 100) if valid.size else float("nan")
        return results
