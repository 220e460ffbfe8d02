"""The results of an adaptation: predictions, a plain model, a picture of before and after, a report."""

import shlex
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import annotations_to_instances, read_image

from ...checkpoint.class_names import state_model_classes
from ...checkpoint.export import export, single_detector
from ...checkpoint.formats import write_weights
from ...config import student_architecture
from ...engine.setup import get_mic_cfg
from ...engine.trainer import MICTrainer
from ...errors import ConfigError
from ...experiments.report import build_report, final_results
from ...experiments.run_files import read_run
from ...inference.media import write_picture
from ...inference.predictor import Predictor, class_list, load_model
from ...utils.outputs import Outputs
from ...utils.printable import printable
from ...visualization.before_after import before_after_sheet, typical_images
from .. import predict
from ..program import read_arguments
from .chosen import find_chosen

PICTURED = 4  # images of before_after.jpg
SHOWN = 0.5  # least score of a box in pictures
KEPT = 0.05  # least score of a box in the results file; Detectron2's evaluation has the same default


def make_results(out, before, after, target, test):
    """Write everything below OUT, and print where it is.

    Args:
        out (path): OUT.
        before, after ((str, str)): config file and weights of the source model and of the adapted one.
        target (TargetImages), test (LabelledImages or None)
    """
    out = Path(out)
    outputs = Outputs(out, "adapt", overwrite=True)
    folders = [f for f in (Path(before[1]).parent, Path(after[1]).parent) if (f / "metrics.json").is_file()]
    runs = [read_run(f) for f in folders]
    chosen = find_chosen(config(*after), after[1], runs[-1])
    after = after[0], chosen.file
    cfg = config(*after)
    call = ["--config-file", after[0], "--input", target.images, "--output", out / "predictions", "--format", "coco"]
    call += ["--confidence-threshold", KEPT, "--overwrite", "MODEL.WEIGHTS", after[1]]
    predict.main(read_arguments("predict", list(map(str, call)), "mic-det predict"))
    plain = write_model(cfg, out)
    truth = load_truth(cfg) if test else None
    with outputs.writing("before_after.jpg") as file:
        write_picture(file, before_after(config(*before), cfg, target.files, truth))
    values = ap50(cfg, runs, before, chosen) if test else (None, None, None)
    tables = [] if chosen.score is None else [chosen.table(values)]
    outputs.write_text("report.html", build_report(runs, [out], tables=tables))
    summary(out, values, chosen, after, plain)


def config(file, weights):
    return get_mic_cfg(file, ["MODEL.WEIGHTS", weights])


def write_model(cfg, out):
    """Write ``model.pth`` and ``model.yaml`` of the teacher alone. Returns whether plain Detectron2 can build it."""
    model = load_model(cfg)
    names = [name for _, name in class_list(cfg)]
    try:
        export(cfg, model, "teacher", str(out / "model.pth"), names, overwrite=True)
        return True
    except ConfigError:  # a backbone that plain Detectron2 lacks
        outputs = Outputs(out, "export", overwrite=True)
        with outputs.writing("model.pth") as file:
            write_weights(single_detector(model, "teacher").state_dict(), file)
        single = cfg.clone()
        single.MODEL.META_ARCHITECTURE, single.MODEL.WEIGHTS = student_architecture(cfg), str(out / "model.pth")
        single.DATASETS.TARGET = single.DATASETS.TARGET_LABELLED = ()
        outputs.write_text("model.yaml", single.dump())
        return False


def load_truth(cfg):
    """Dataset dicts of the test set."""
    for name in cfg.DATASETS.TRAIN[:1]:  # it names the classes
        DatasetCatalog.get(name)
    return DatasetCatalog.get(cfg.DATASETS.TEST[0])


def before_after(before, after, files, truth=None, count=PICTURED, labels=True):
    """A picture with one row for each target image: source-only, adapted and, where there are labels, the truth.

    Args:
        before, after (CfgNode): with their weights.
        files (list[path]): images of the target.
        truth (list[dict]): labelled images of the target, shown instead of ``files``.
        count (int): images to show.
        labels (bool): whether class and score stand beside the boxes.
    """
    shown = [d["file_name"] for d in truth] if truth else files
    names = [name for _, name in class_list(after)]
    predictors = [("source-only", Predictor(before, SHOWN)), ("adapted", Predictor(after, SHOWN))]
    rows = []
    if truth:
        chosen = typical_images([len(true_annotations(d)) for d in truth], count)
    else:
        chosen = np.unique(np.linspace(0, len(shown) - 1, count).astype(int))
    for i in chosen:
        rgb = np.ascontiguousarray(read_image(str(shown[i]), "RGB"))
        entries = {title: predictor(rgb)["instances"] for title, predictor in predictors}
        if truth:
            entries["truth"] = _true_boxes(truth[i], rgb)
        rows.append((rgb, entries))
    return before_after_sheet(rows, names, score_threshold=SHOWN, labels=labels)


def true_annotations(d):
    """The annotations of a dataset dict, without crowds."""
    return [a for a in d.get("annotations", ()) if not a.get("iscrowd", 0)]


def _true_boxes(d, rgb):
    """The true boxes of a dataset dict as ``Instances``."""
    boxes = [{key: a[key] for key in ("bbox", "bbox_mode", "category_id")} for a in true_annotations(d)]
    return annotations_to_instances(boxes, rgb.shape[:2])


def ap50(cfg, runs, before, chosen):
    """AP50 on the test set of the source model, of the result, and of the last step of the adaptation."""
    *source, last = [next((m.get("AP50") for _, m in final_results(run).values()), None) for run in runs]
    source = source[0] if source else evaluate(cfg, before[1], "source_evaluation")
    if chosen.is_last:
        return source, last, last
    return source, evaluate(cfg, chosen.file, "chosen_evaluation"), last


def evaluate(cfg, weights, folder):
    """AP50 on the adaptation's test set of weights that its training did not evaluate."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = weights
    cfg.TEST.LABEL_FREE.ENABLED = False
    cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR).parent / folder)
    state_model_classes(cfg)  # the sets were registered for another config since
    results = MICTrainer.test(cfg, load_model(cfg))
    return results.get("bbox", {}).get("AP50")


def summary(out, values, chosen, after, plain):
    """The last lines of the program."""
    print()
    for sentence in chosen.sentences():
        print(sentence)
    if any(v is not None for v in values):
        source, adapted, last = (("-" if v is None else f"{v:.1f}") for v in values)
        more = "" if chosen.is_last else f" ({last} after the last step)"
        print(f"AP50 on the test images: {source} source-only, {adapted} adapted{more}")
        if chosen.step and None not in values[:2] and values[1] <= values[0]:
            print("The adaptation did not help on these images. See pseudo/num_boxes_CLASS in the report: a class")
            print("without pseudo-boxes is forgotten. Try MODEL.MIC.PSEUDO_BOXES.SCORE_THRESHOLD 0.6.")
    lines = [
        ("report", "report.html"), ("picture", "before_after.jpg"),
        ("predictions", "predictions/coco_instances_results.json"),
        ("model", "model.pth, with model.yaml" + ("" if plain else " (plain Detectron2 lacks its backbone)")),
    ]  # fmt: skip
    for name, file in lines:
        print(printable(f"{name:12s} {out / file}"))
    print(printable(f"{'checkpoint':12s} {after[1]}  (teacher and student)"))
    if not chosen.is_last:
        print(printable(f"{'last step':12s} {chosen.last}"))
    again = shlex.join(["mic-det", "train", "--config-file", after[0], "OUTPUT_DIR", "again"])
    print(printable(f"{'config':12s} {after[0]}  (again: {again})"))
