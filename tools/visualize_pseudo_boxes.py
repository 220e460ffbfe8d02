"""Draw target images with their masked view, the teacher's pseudo-boxes, predictions and truth.

Example:
    python tools/visualize_pseudo_boxes.py --config-file configs/minicity/mic.yaml \
        --weights output/minicity/mic/model_final.pth --output pictures
"""

import argparse
import os
import sys

import mic_det  # noqa: F401  before Detectron2, whose warnings it leaves out

# isort: split
import matplotlib.pyplot as plt
import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from mic_det.config import is_mic
from mic_det.data.label_checks import labels_of
from mic_det.data.mapper import DomainMapper
from mic_det.data.run_sets import what_is_read
from mic_det.engine.setup import add_model_arguments, config_of
from mic_det.errors import ConfigError, MICError
from mic_det.inference.media import write_picture
from mic_det.inference.predictor import load_model
from mic_det.modeling.terms import ClassMix
from mic_det.utils.outputs import Outputs, add_overwrite_argument
from mic_det.utils.printable import printable
from mic_det.utils.programs import start_program
from mic_det.visualization.grid import panel_grid
from mic_det.visualization.panels import SHEET_COLUMNS, contact_sheet, mic_panels


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", help="checkpoint of MIC; default: MODEL.WEIGHTS")
    parser.add_argument("--output", required=True, help="folder for one picture an image and contact_sheet.png")
    parser.add_argument("--window", action="store_true", help="also show each picture until its window is closed")
    parser.add_argument("--dataset", help="a registered or declared set; default: the first of DATASETS.TEST")
    parser.add_argument("--num-images", type=int, default=6, help="evenly spread over the set")
    add_overwrite_argument(parser)
    add_model_arguments(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, as for train_net.py")
    return parser.parse_args()


def main(args):
    cfg = config_of(args)
    if not is_mic(cfg):
        raise ConfigError(f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}: pseudo-boxes need MIC.")
    if args.window:
        check_display()
    model = load_model(cfg, args.weights, args.trust_checkpoint)
    name = args.dataset or next(iter(cfg.DATASETS.TEST), "")
    if name not in DatasetCatalog.list():
        raise ConfigError(f"--dataset (or DATASETS.TEST) is {name!r}, neither registered nor in DATASETS.CUSTOM.")
    for kind in labels_of(cfg):
        kind.prepare(name)
    dicts = DatasetCatalog.get(name)
    class_names = MetadataCatalog.get(name).get("thing_classes") or source_classes(cfg)
    chosen = np.unique(np.linspace(0, len(dicts) - 1, args.num_images).astype(int))
    mapper = DomainMapper.with_truth(cfg)  # which is drawn, not used
    stems = picture_names([dicts[i]["file_name"] for i in chosen])
    inputs = [*what_is_read(name, dicts), args.config_file, args.weights or cfg.MODEL.WEIGHTS]
    outputs = Outputs(args.output, "visualize_pseudo_boxes", inputs, args.overwrite)
    outputs.check([f"{stem}.png" for stem in (*stems, "contact_sheet")])
    rows = []
    for i, stem in zip(chosen, stems):
        mapped = mapper(dicts[i])
        torch.manual_seed(int(i))  # colours; the mask has a generator of its own
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
    """A name without its ending for each file's picture: those of one name, from several folders, get a number."""
    stems = ["contact_sheet"]
    for number, file in enumerate(files):
        stem = os.path.splitext(os.path.basename(file))[0]
        stems.append(stem if stem not in stems else f"{stem}_{number}")
    return stems[1:]


def mixed_source(cfg, model, mapper, i):
    """A source image with its label map, where ClassMix is trained with; None elsewhere."""
    if not (any(isinstance(term, ClassMix) for term in model.terms) and cfg.DATASETS.TRAIN):
        return None
    for kind in labels_of(cfg):
        kind.prepare(cfg.DATASETS.TRAIN[0])
    dicts = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    return mapper(dicts[i % len(dicts)])


def source_classes(cfg):
    """Class names of the labelled source, for sets without labels; known once the source has been read."""
    for name in cfg.DATASETS.TRAIN[:1]:
        DatasetCatalog.get(name)
        return MetadataCatalog.get(name).get("thing_classes", ())
    return ()


def check_display():
    """A window needs a display and one of Matplotlib's interactive backends; told before time is spent."""
    toolkit = getattr(plt.figure().canvas, "required_interactive_framework", None)
    plt.close()
    if toolkit is None:
        raise ConfigError(
            "--window: Matplotlib finds no display to open a window on (or no toolkit, such as Python's tkinter). "
            "Leave it out, and look at the files."
        )


def show(title, rgb):
    """One picture in a window, until the user closes it."""
    height, width = rgb.shape[:2]
    plt.figure(title, figsize=(9 * min(1, width / height), 9 * min(1, height / width)), layout="constrained")
    plt.imshow(rgb)
    plt.axis("off")
    plt.show()


if __name__ == "__main__":
    start_program()
    try:
        main(parse_args())
    except MICError as e:
        sys.exit(f"error: {e}")
