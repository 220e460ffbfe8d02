"""Hide more and more of each image and measure what models still find: curves, their numbers, and pictures."""

import contextlib
import io
import json
import logging
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluators

from ..config.keypoint_rules import predicts_keypoints
from ..config.label_kinds import label_kinds, mask_keys, refuse_image_classes
from ..data.label_checks import labels_of
from ..data.mapper import DomainMapper
from ..data.run_sets import expect_registered, what_is_read
from ..engine.setup import config_of
from ..engine.trainer import MICTrainer
from ..errors import ConfigError
from ..evaluation.coco import DetectionEvaluator
from ..evaluation.evaluators import METRICS, make_evaluators
from ..evaluation.hidden_pixels import (
    HiddenPatches,
    TrueBoxesShown,
    evaluate_hidden,
    true_boxes,
)
from ..inference.media import write_picture
from ..inference.predictor import load_model
from ..utils.outputs import Outputs
from ..utils.printable import printable
from ..utils.progress import progress_bar
from ..visualization.curves import bar_chart, line_chart
from ..visualization.label_colors import color_labels
from ..visualization.panels import (
    draw_boxes,
    draw_instances,
    draw_truth,
    to_rgb,
)
from ..visualization.sheet import contact_sheet
from ..visualization.skeletons import Skeleton

OBJECTS, CONTEXT = "objects alone", "context alone"  # the two views that --objects adds to the whole image


def main(args):
    cfg = config_of(args)
    refuse_image_classes(cfg, "The measurement of context")
    name = args.dataset or next(iter(cfg.DATASETS.TEST), "")
    dicts = labelled_set(cfg, name)
    if args.objects and "boxes" not in label_kinds(cfg):
        raise ConfigError("--objects needs a detector: the config's model has no boxes.")
    # before time is spent
    metrics = [METRICS[kind] for kind in label_kinds(cfg)]
    files = [f"curve_{m}.png" for m in metrics] + ["objects_AP50.png"] * args.objects
    files += ["curve.json", "contact_sheet.png"]
    inputs = [*what_is_read(name, dicts), args.config_file, *args.weights.values()]
    outputs = Outputs(args.output, "show_context", inputs, args.overwrite)
    outputs.check(files)
    models = {label: load_model(cfg, file, args.trust_checkpoint) for label, file in args.weights.items()}
    dicts = labelled_set(cfg, name)  # read again: checkpoints may name the classes
    mask, output = mask_keys(cfg), Path(args.output)
    block_size, share = mask.BLOCK_SIZE, mask.BLOCK_SHARE
    logging.getLogger("detectron2").setLevel(logging.WARNING)

    boxes = true_boxes(dicts)
    hidden, shown, curves, objects = {}, {}, {}, {}
    for label, model in models.items():
        hidden[label] = {f"{r:.0%} hidden": HiddenPatches(model, block_size, r, share) for r in args.ratios}
        parts = {OBJECTS: TrueBoxesShown(model, boxes), CONTEXT: TrueBoxesShown(model, boxes, inside=False)}
        shown[label] = parts if args.objects else {}
    loader = lambda: MICTrainer.build_test_loader(cfg, name)  # noqa: E731
    passes = sum(len(args.ratios) + bool(v) + len(v) for v in shown.values())
    with progress_bar(passes * len(dicts), "image") as progress, contextlib.redirect_stdout(io.StringIO()):
        for label, model in models.items():  # pycocotools prints its tables
            judge = DatasetEvaluators(make_evaluators(cfg, name, str(output / "inference")))
            curves[label] = evaluate_hidden(hidden[label].values(), loader, judge, progress.update)
            if args.objects:
                views = [HiddenPatches(model, block_size, 0.0), *shown[label].values()]
                judge = DetectionEvaluator(name, output_dir=str(output / "inference"))
                objects[label] = evaluate_hidden(views, loader, judge, progress.update)
    views = {label: {**hidden[label], **shown[label]} for label in models}
    with outputs.writing("contact_sheet.png") as file:
        write_picture(file, contact_sheet(sheet_rows(cfg, views, dicts, name, args.images)))
    save(args, outputs, name, mask, curves, objects, metrics)
    for metric in metrics:
        print(f"{metric} on {printable(name)}, share of patches ({patch_size(mask)}) that are hidden:")
        print(" " * 20 + "".join(f"{r:8.0%}" for r in args.ratios))
        for label, values in curves.items():
            numbers = ("     nan" if v is None else f"{v:8.1f}" for v in values[metric])
            print(f"{printable(label):20s}" + "".join(numbers))
    if objects:
        print(f"AP50 on {printable(name)}, what is shown:")
        print(" " * 20 + "".join(f"{x:>15s}" for x in ("whole image", OBJECTS, CONTEXT)))
        for label, values in objects.items():
            numbers = ("            nan" if v is None else f"{v:15.1f}" for v in values["AP50"])
            print(f"{printable(label):20s}" + "".join(numbers))
    print(f"{printable(output)}: {', '.join(files)}")


def labelled_set(cfg, name):
    """Dicts of a set that has all the labels that evaluation needs."""
    expect_registered("--dataset (or DATASETS.TEST)", name)
    kinds = labels_of(cfg)
    for kind in kinds:
        kind.prepare(name)
    dicts = DatasetCatalog.get(name)
    for kind in kinds:
        kind.check_for_metrics(name, dicts)
    return dicts


def sheet_rows(cfg, views, dicts, name, num_images):
    """For each image and checkpoint one row for each kind of label: predictions in each view, then the truth.

    ``views`` has the views of each checkpoint by their captions.
    """
    mapper = DomainMapper.with_truth(cfg)
    drawings = [DRAWINGS[kind](cfg, name) for kind in label_kinds(cfg)]
    rows = []
    for i in np.unique(np.linspace(0, len(dicts) - 1, num_images).astype(int)):
        mapped = mapper(dicts[i])
        size = dict(zip(("height", "width"), mapped["image"].shape[-2:]))
        for label, of_model in views.items():
            found = [[] for _ in drawings]
            for what, view in of_model.items():
                seen = view.hide(mapped)
                with torch.no_grad():
                    answer = view.model([{"image": seen["image"], **size}])[0]
                for row, drawing in zip(found, drawings):
                    row.append((f"{label}, {what}", drawing.answer(answer, seen["image"])))
            rows += [[*row, drawing.truth(mapped)] for row, drawing in zip(found, drawings)]
    return rows


class BoxDrawing:
    """Pictures of boxes."""

    def __init__(self, cfg, dataset_name):
        self.channels = cfg.INPUT.FORMAT
        self.class_names = MetadataCatalog.get(dataset_name).get("thing_classes", ())
        self.skeleton = Skeleton.of_set(dataset_name) if predicts_keypoints(cfg) else None

    def answer(self, answer, image):
        """Picture of a model's predictions on an image (3, H, W), of which a part may be hidden."""
        found = answer["instances"][answer["instances"].scores >= 0.5]
        picture = to_rgb(image.clamp(0, 255).round().to(torch.uint8), self.channels)
        return draw_instances(
            picture, found, found.pred_boxes, found.pred_classes, self.class_names, skeleton=self.skeleton
        )

    def truth(self, mapped):
        """Caption and picture of a mapped image's labels."""
        truth, picture = mapped["instances"], to_rgb(mapped["image"], self.channels)
        return "truth", draw_truth(picture, truth, self.class_names, self.skeleton)


class PixelDrawing:
    """Pictures of label maps; see :class:`BoxDrawing`."""

    def __init__(self, cfg, dataset_name):
        self.ignored = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE

    def answer(self, answer, image):
        return self._draw(answer["sem_seg"].argmax(dim=0).cpu().numpy())

    def truth(self, mapped):
        return "true labels", self._draw(mapped["sem_seg"].numpy())

    def _draw(self, labels):
        return draw_boxes(color_labels(labels, self.ignored), [], [])


DRAWINGS = {"boxes": BoxDrawing, "pixels": PixelDrawing}


def patch_size(mask):
    return f"{mask.BLOCK_SIZE} pixels" if mask.BLOCK_SIZE else f"{mask.BLOCK_SHARE:.3g} of the short side"


def save(args, outputs, name, mask, curves, objects, metrics):
    size = {"block_size": mask.BLOCK_SIZE} if mask.BLOCK_SIZE else {"block_share": mask.BLOCK_SHARE}
    content = {"dataset": name, **size, "ratios": args.ratios, "checkpoints": {}}
    for label, values in curves.items():
        content["checkpoints"][label] = {"weights": args.weights[label], **values}
        for i, what in enumerate(("whole image", OBJECTS, CONTEXT) if objects else ()):
            content["checkpoints"][label][what] = {k: v[i] for k, v in objects[label].items()}
    outputs.write_text("curve.json", json.dumps(content, indent=1))
    figures = {}
    for metric in metrics:
        lines = {}
        for label, values in curves.items():
            points = [(100 * r, v) for r, v in zip(args.ratios, values[metric]) if v is not None]
            lines[label] = ([x for x, _ in points], [y for _, y in points])
        title = f"{metric} on {name} as patches of {patch_size(mask)} are hidden"
        figures[f"curve_{metric}.png"] = line_chart(title, lines, xlabel="hidden patches (%)", ylabel=f"{metric} (%)")
    if objects:
        values = {k: [float("nan") if x is None else x for x in v["AP50"]] for k, v in objects.items()}
        shown = ["whole image", OBJECTS, CONTEXT]
        figures["objects_AP50.png"] = bar_chart(f"AP50 on {name}", shown, values, ylabel="AP50 (%)")
    for file_name, figure in figures.items():
        with outputs.writing(file_name) as file:
            figure.savefig(file, dpi=150)
