"""Choose the target images that are most worth a label."""

import logging
import os
from pathlib import Path

import numpy as np
import yaml
from detectron2.data import DatasetCatalog

from ..config.label_kinds import label_kinds, num_classes
from ..data.pixels import read_rgb
from ..engine.setup import config_of
from ..errors import ConfigError
from ..evaluation.label_free.measure import read_unlabelled, two_detectors
from ..evaluation.label_free.passes import look
from ..evaluation.label_free.picking import descriptors, disagreement, pick
from ..experiments.run_checkpoints import ImageSets
from ..inference.detections import Detections
from ..inference.media import Frame, Source
from ..inference.predictor import class_list, load_with_classes
from ..inference.results import FILES, Predictions
from ..utils.outputs import Outputs
from ..utils.printable import printable
from ..utils.progress import progress_bar

PRE_LABELS, LABELS, LIST, CONFIG = "pre_labels.json", "labels.json", "images.txt", "train.yaml"
VIEWS = ("flip", "masked", "other")
SET = "labelled_target"


def main(args):
    cfg = config_of(args)
    if "boxes" not in label_kinds(cfg):
        raise ConfigError("the config's model predicts no boxes: this command chooses by boxes.")
    weights = args.weights or cfg.MODEL.WEIGHTS
    outputs = Outputs(args.output, "which-images", [args.config_file, weights], args.overwrite)
    outputs.check([PRE_LABELS, LIST, CONFIG])
    logging.getLogger("detectron2").setLevel(logging.WARNING)
    logging.getLogger("fvcore").setLevel(logging.WARNING)
    model, named = load_with_classes(cfg, weights, args.trust_checkpoint)
    dicts = ImageSets(args.images, args.max_images, 0).target_dicts(cfg)
    images = read_unlabelled(cfg, dicts)
    detector, other = two_detectors(model)
    with progress_bar(len(images), "image") as progress:
        views = look(detector, images.items, other, VIEWS, progress.update)
    doubt = disagreement(views, num_classes(cfg))
    chosen = pick(doubt, descriptors(views["whole"]), args.count)
    files = [dicts[i]["file_name"] for i in chosen]
    root = os.path.commonpath([os.path.dirname(os.path.abspath(f)) for f in files])
    sizes = [images.items[i][1].shape[-2:] for i in chosen]
    found = [views["whole"][i] for i in chosen]
    content = pre_labels(files, root, found, sizes, class_list(cfg, named), args.confidence_threshold)
    outputs.write_text(PRE_LABELS, content)
    outputs.write_text(LIST, "".join(f"{f}\n" for f in files))
    outputs.write_text(CONFIG, training_config(cfg, args, root, weights, len(files)))
    print(printable(f"{len(files)} of {len(images)} images: {Path(args.output) / LIST}"))
    print(printable(f"Correct the boxes of {PRE_LABELS}, and save them as {Path(args.output) / LABELS}. Then train:"))
    print(printable(f"    mic-det train --config-file {Path(args.output) / CONFIG}"))


def pre_labels(files, root, predictions, sizes, classes, least):
    """A COCO file, as a text, of boxes in pixels of the files.

    Args:
        files (list[path]), predictions (list[BoxPredictions]), sizes (list[(int, int)]): height and width that the
            predictions are in.
        root (path): file names are relative to it.
        classes (list[(int, str)]): category ids and names.
        least (float): least score.
    """
    collected = Predictions(classes)
    for file, found, (height, width) in zip(files, predictions, sizes):
        rgb = read_rgb(file)
        scale = np.array([rgb.shape[1] / width, rgb.shape[0] / height] * 2)
        sure = found.of(found.scores >= least)
        frame = Frame(Source(Path(file), Path(os.path.abspath(file)).relative_to(root).as_posix()), rgb)
        collected.add(frame, Detections(sure.boxes * scale, sure.scores, sure.classes))
    return collected.coco()[FILES["coco"][0]]


def training_config(cfg, args, root, weights, count):
    """A YAML text: the config of the arguments, which also trains with the labels of ``labels.json``.

    A set that is named several times in ``DATASETS.TRAIN`` is drawn several times as often.
    """
    source = sum(bool(d.get("annotations")) for name in cfg.DATASETS.TRAIN for d in DatasetCatalog.get(name))
    repeats = max(1, round(args.share / (1 - args.share) * source / count))
    output = Path(os.path.abspath(args.output))
    content = {
        "VERSION": 2,
        "_BASE_": os.path.abspath(args.config_file),
        "MODEL": {"WEIGHTS": os.path.abspath(weights)},
        "DATASETS": {
            "CUSTOM": {SET: {"JSON": str(output / LABELS), "IMAGES": root}},
            "TRAIN": [*cfg.DATASETS.TRAIN, *[SET] * repeats],
        },
        "OUTPUT_DIR": str(output / "run"),
    }
    head = f"# {SET}: {count} target images, {repeats} times each beside {source} source images\n"
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
