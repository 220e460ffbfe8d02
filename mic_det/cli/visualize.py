"""Draw target images with their masked view, the teacher's pseudo-boxes, the predictions and the truth."""

import os

import matplotlib.pyplot as plt
import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..config import is_mic
from ..data.classes import model_class_names
from ..data.label_checks import labels_of
from ..data.mapper import DomainMapper
from ..data.run_sets import expect_registered, what_is_read
from ..engine.setup import config_of
from ..errors import ConfigError
from ..inference.media import write_picture
from ..inference.predictor import load_model
from ..modeling.terms import ClassMix
from ..utils.outputs import Outputs
from ..utils.printable import printable
from ..visualization.grid import panel_grid
from ..visualization.panels import SHEET_COLUMNS, mic_panels
from ..visualization.sheet import contact_sheet


def main(args):
    cfg = config_of(args)
    if not is_mic(cfg):
        raise ConfigError(f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}: pseudo-boxes need MIC.")
    if args.window:
        check_display()
    model = load_model(cfg, args.weights, args.trust_checkpoint)
    name = args.dataset or next(iter(cfg.DATASETS.TEST), "")
    expect_registered("--dataset (or DATASETS.TEST)", name)
    for kind in labels_of(cfg):
        kind.prepare(name)
    dicts = DatasetCatalog.get(name)
    class_names = MetadataCatalog.get(name).get("thing_classes") or source_classes(cfg)
    chosen = np.unique(np.linspace(0, len(dicts) - 1, args.num_images).astype(int))
    mapper = DomainMapper.with_truth(cfg)  # the truth is only drawn
    stems = picture_names([dicts[i]["file_name"] for i in chosen])
    inputs = [*what_is_read(name, dicts), args.config_file, args.weights or cfg.MODEL.WEIGHTS]
    outputs = Outputs(args.output, "visualize_pseudo_boxes", inputs, args.overwrite)
    outputs.check([f"{stem}.png" for stem in (*stems, "contact_sheet")])
    rows = []
    for i, stem in zip(chosen, stems):
        mapped = mapper(dicts[i])
        torch.manual_seed(int(i))  # of the colour changes; the mask has its own generator
        generator = torch.Generator().manual_seed(int(i))
        rows.append(
            mic_panels(
                model, mapped, mapped.get("instances"), generator, class_names=class_names,
                input_format=cfg.INPUT.FORMAT, source=mixed_source(cfg, model, mapper, int(i)),
            )
        )  # fmt: skip
        picture = panel_grid(rows[-1])
        with outputs.writing(f"{stem}.png") as file:
            write_picture(file, picture)
        if args.window:
            show(stem, picture)
    with outputs.writing("contact_sheet.png") as file:
        write_picture(file, contact_sheet(rows, SHEET_COLUMNS))
    print(f"{len(rows)} pictures and {printable(os.path.join(args.output, 'contact_sheet.png'))}")


def picture_names(files):
    """A name for each file's picture, without ending. Where files of several folders share a name, it has a number."""
    stems = ["contact_sheet"]
    for number, file in enumerate(files):
        stem = os.path.splitext(os.path.basename(file))[0]
        stems.append(stem if stem not in stems else f"{stem}_{number}")
    return stems[1:]


def mixed_source(cfg, model, mapper, i):
    """A source image with its label map, where the training uses ClassMix; else None."""
    if not (any(isinstance(term, ClassMix) for term in model.terms) and cfg.DATASETS.TRAIN):
        return None
    for kind in labels_of(cfg):
        kind.prepare(cfg.DATASETS.TRAIN[0])
    dicts = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    return mapper(dicts[i % len(dicts)])


def source_classes(cfg):
    """Class names of the model, for sets without labels. Those of the source are known after it has been read."""
    for name in cfg.DATASETS.TRAIN[:1]:
        DatasetCatalog.get(name)
        return MetadataCatalog.get(name).get("thing_classes", ())
    return model_class_names(cfg) or ()


def check_display():
    """A window needs a display and one of Matplotlib's interactive backends: check this before any work.

    Raises:
        ConfigError: where one of them is missing.
    """
    toolkit = getattr(plt.figure().canvas, "required_interactive_framework", None)
    plt.close()
    if toolkit is None:
        raise ConfigError(
            "--window: Matplotlib finds no display for a window (or no toolkit, such as Python's tkinter). Leave the "
            "option out, and look at the files."
        )


def show(title, rgb):
    """Show one picture in a window until the user closes it."""
    height, width = rgb.shape[:2]
    plt.figure(title, figsize=(9 * min(1, width / height), 9 * min(1, height / width)), layout="constrained")
    plt.imshow(rgb)
    plt.axis("off")
    plt.show()
