"""Hide more and more of each image and see what detectors still find: a curve, its numbers, and pictures.

The same patches are hidden for every checkpoint. Checkpoints may be plain detectors' or MICRCNN's. Example:
    python tools/show_context.py --config-file configs/minicity/mic.yaml --output context \
        --weights source-only=output/minicity/source_only/model_final.pth MIC=output/minicity/mic/model_final.pth
"""

import argparse
import contextlib
import io
import json
import logging
import sys
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from tqdm import tqdm

from mic_det.config import ConfigError
from mic_det.data.catalog import DataError
from mic_det.data.mapper import DomainMapper
from mic_det.engine.checkpoint import CheckpointError
from mic_det.engine.media import write_picture
from mic_det.engine.predict import load_detector
from mic_det.engine.setup import load_config, split_opts
from mic_det.evaluation.context import HiddenPatches, evaluate_hidden
from mic_det.visualization.curves import line_chart
from mic_det.visualization.panels import contact_sheet, draw_boxes, draw_instances, to_rgb


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", required=True, nargs="+", metavar="NAME=FILE", help="checkpoints to compare")
    parser.add_argument("--output", required=True, help="folder for curve.png, curve.json and contact_sheet.png")
    parser.add_argument("--ratios", nargs="+", default=["0", "0.3", "0.5", "0.7", "0.9"], help="shares in [0, 1)")
    parser.add_argument("--dataset", help="a labelled set; default: the first of DATASETS.TEST")
    parser.add_argument("--images", type=int, default=3, help="of the contact sheet, evenly spread (%(default)s)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, as for train_net.py")
    args = parser.parse_args()
    for option in ("weights", "ratios"):
        values, args.opts = split_opts(getattr(args, option), args.opts)
        setattr(args, option, values)
    try:
        args.ratios = [float(x) for x in args.ratios]
    except ValueError as e:
        parser.error(f"--ratios: {e}")
    if not args.ratios or not all(0 <= r < 1 for r in args.ratios):
        parser.error("--ratios: use numbers in [0, 1)")
    pairs = [x.partition("=") for x in args.weights]
    if not all(name and file for name, _, file in pairs) or len({p[0] for p in pairs}) < len(pairs):
        parser.error(f"--weights {' '.join(args.weights)}: use NAME=FILE with a different name each")
    args.weights = {name: file for name, _, file in pairs}
    return args


def main(args):
    cfg = load_config(args.config_file, args.opts)
    name = args.dataset or next(iter(cfg.DATASETS.TEST), "")
    if name not in DatasetCatalog.list():
        raise ConfigError(f"--dataset (or DATASETS.TEST) is {name!r}, neither registered nor in DATASETS.DECLARED.")
    dicts = DatasetCatalog.get(name)
    if not any(d.get("annotations") for d in dicts):
        raise DataError(f"{name} has no labels: AP needs a labelled set. Name one with --dataset.")
    models = {label: load_detector(cfg, file) for label, file in args.weights.items()}  # before time is spent
    block_size, output = cfg.MODEL.MIC.MASK.BLOCK_SIZE, Path(args.output)
    logging.getLogger("detectron2").setLevel(logging.WARNING)

    curves = {}
    with tqdm(total=len(models) * len(args.ratios) * len(dicts), unit="image") as progress:
        for label, model in models.items():
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its tables
                curves[label] = evaluate_hidden(
                    model,
                    lambda: build_detection_test_loader(cfg, name),
                    name,
                    block_size,
                    args.ratios,
                    progress.update,
                )
    rows = sheet_rows(cfg, models, dicts, name, args)
    write_picture(output / "contact_sheet.png", contact_sheet(rows))
    save(args, output, name, block_size, curves)
    print(f"AP50 on {name}, share of patches ({block_size} pixels) that are hidden:")
    print(" " * 20 + "".join(f"{r:8.0%}" for r in args.ratios))
    for label, values in curves.items():
        print(f"{label:20s}" + "".join("     nan" if v is None else f"{v:8.1f}" for v in values["AP50"]))
    print(f"{output / 'curve.png'}, curve.json and contact_sheet.png")


def sheet_rows(cfg, models, dicts, name, args):
    """A row an image and checkpoint: predictions at each ratio, then the truth."""
    mapper = DomainMapper(cfg, is_train=False)
    mapper.is_train = True  # keeps the truth, which is drawn in the frame of the detector's input
    class_names = MetadataCatalog.get(name).get("thing_classes", ())
    rows = []
    for i in np.unique(np.linspace(0, len(dicts) - 1, args.images).astype(int)):
        mapped = mapper(dicts[i])
        truth = mapped["instances"]
        plain = to_rgb(mapped["image"], cfg.INPUT.FORMAT)
        boxes = truth.gt_boxes.tensor.numpy()
        truth_panel = ("truth", draw_boxes(plain, boxes, truth.gt_classes.tolist(), None, class_names))
        for label, model in models.items():
            row = []
            for ratio in args.ratios:
                seen = HiddenPatches(model, cfg.MODEL.MIC.MASK.BLOCK_SIZE, ratio).hide(mapped)
                with torch.no_grad():
                    found = model([{"image": seen["image"]}])[0]["instances"]
                found = found[found.scores >= 0.5]
                picture = to_rgb(seen["image"].clamp(0, 255).round().to(torch.uint8), cfg.INPUT.FORMAT)
                drawn = draw_instances(picture, found, found.pred_boxes, found.pred_classes, class_names)
                row.append((f"{label}, {ratio:.0%} hidden", drawn))
            rows.append([*row, truth_panel])
    return rows


def save(args, output, name, block_size, curves):
    content = {"dataset": name, "block_size": block_size, "ratios": args.ratios, "checkpoints": {}}
    for label, values in curves.items():
        content["checkpoints"][label] = {"weights": args.weights[label], **values}
    lines = {
        label: (
            [100 * r for r, v in zip(args.ratios, values["AP50"]) if v is not None],
            [v for v in values["AP50"] if v is not None],
        )
        for label, values in curves.items()
    }
    title = f"AP50 on {name} as patches of {block_size} pixels are hidden"
    figure = line_chart(title, lines, xlabel="hidden patches (%)", ylabel="AP50 (%)")
    try:
        (output / "curve.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
        figure.savefig(output / "curve.png", dpi=150)
    except OSError as e:
        raise DataError(f"cannot write to {output} ({e.strerror}): check --output.") from e


if __name__ == "__main__":
    try:
        main(parse_args())
    except (ConfigError, DataError, CheckpointError) as e:
        sys.exit(f"error: {e}")
