"""Draw predictions of several models and the truth side by side, as in some pictures of README and docs.

Boxes are in before_after_IMAGE.jpg, and label maps, of models that predict them, in label_maps_IMAGE.jpg.

Each model is NAME=RUN_DIR: the folder of a training, with its config.yaml and model_final.pth. Example, after
`make demo`:
    python tools/make_figures.py --output docs/images --dataset minicity_foggy_val --image 32 \
        --runs before=output/demo/source_strong_start after=output/demo/mic_strong
"""

import argparse
import sys
from pathlib import Path

import mic_det

# isort: split
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from mic_det.cli.adapt.results import true_annotations
from mic_det.config import is_mic
from mic_det.data.mapper import DomainMapper
from mic_det.errors import ConfigError, MICError
from mic_det.inference.media import write_picture
from mic_det.inference.predictor import Predictor
from mic_det.utils.outputs import Outputs, add_overwrite_argument
from mic_det.utils.programs import start_program
from mic_det.visualization.before_after import before_after, typical_images
from mic_det.visualization.grid import panel_grid
from mic_det.visualization.label_maps import compared_label_maps
from mic_det.visualization.panels import mic_panels


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", required=True, metavar="NAME=RUN_DIR", help="in the order of the panels")
    parser.add_argument("--dataset", required=True, help="a registered set, or one that a run's config declares")
    parser.add_argument(
        "--image", type=int, nargs="+", help="numbers of images in the set, from 0 (default: one with a medium number "
        "of true boxes)"
    )  # fmt: skip
    parser.add_argument("--output", required=True, help="folder for the pictures")
    parser.add_argument("--columns", type=int, help="panels per row (default: the number with the largest panels)")
    parser.add_argument("--no-labels", action="store_true", help="draw no classes and scores, for small pictures")
    parser.add_argument("--score-threshold", type=float, default=0.5, help="least score of a drawn box (default: 0.5)")
    parser.add_argument("--panels", metavar="NAME", help="also panels_IMAGE.jpg: the views of MIC in the run NAME")
    add_overwrite_argument(parser)
    return parser.parse_args()


def main(args):
    runs = dict(named_run(text) for text in args.runs)
    if len(runs) < len(args.runs):
        raise ConfigError(f"--runs: two runs have the same name: {' '.join(args.runs)}. Rename one of them.")
    if args.panels and args.panels not in runs:
        raise ConfigError(f"--panels {args.panels} is not among the names of --runs: {', '.join(runs)}.")
    if args.panels and not is_mic(config_of_run(runs[args.panels])):
        raise ConfigError(f"--panels {args.panels}: this run is not MIC, so it has no pseudo-boxes.")
    predictors = {name: Predictor(config_of_run(folder), args.score_threshold) for name, folder in runs.items()}
    cfg = config_of_run(next(iter(runs.values())))
    if args.dataset not in DatasetCatalog.list():
        raise ConfigError(
            f"--dataset is {args.dataset!r}, neither registered nor in DATASETS.CUSTOM of {args.runs[0]}."
        )
    dicts = DatasetCatalog.get(args.dataset)
    images = args.image or typical_images([len(true_annotations(d)) for d in dicts], 1)
    outside = [i for i in images if not 0 <= i < len(dicts)]
    if outside:
        raise ConfigError(f"--image {outside[0]}: {args.dataset} has images 0 to {len(dicts) - 1}.")
    inputs = [dicts[i]["file_name"] for i in images]
    outputs = Outputs(args.output, "make_figures", [*inputs, *map(str, runs.values())], args.overwrite)
    outputs.check([f"{kind}_{i}.jpg" for i in images for kind in ("before_after", "label_maps", "panels")])
    names = MetadataCatalog.get(args.dataset).get("thing_classes", ())
    for i in images:
        rgb, truth, true_labels = original_image(cfg, dicts[i])
        found = {name: predictor(rgb) for name, predictor in predictors.items()}
        entries = {name: x["instances"] for name, x in found.items() if "instances" in x}
        if entries:
            entries.update({"truth": truth} if truth is not None else {})
            picture = before_after(rgb, entries, names, labels=not args.no_labels, columns=args.columns,
                                   score_threshold=args.score_threshold)  # fmt: skip
            save(outputs, f"before_after_{i}.jpg", picture)
        maps = {name: x["label_map"].numpy() for name, x in found.items() if "label_map" in x}
        if maps:
            panels = compared_label_maps(rgb, maps, true_labels, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)
            save(outputs, f"label_maps_{i}.jpg", panel_grid(panels, columns=args.columns, labels=False))
        if args.panels:
            cfg_of_mic = config_of_run(runs[args.panels])
            mapped = DomainMapper.with_truth(cfg_of_mic)(dicts[i])
            panels = mic_panels(
                predictors[args.panels].model, mapped, mapped.get("instances"), torch.Generator().manual_seed(i),
                args.score_threshold, names, cfg_of_mic.INPUT.FORMAT,
            )  # fmt: skip
            save(outputs, f"panels_{i}.jpg", panel_grid(panels))


def save(outputs, file, picture):
    with outputs.writing(file) as path:
        write_picture(path, picture)
    print(outputs.folder / file)


def named_run(text):
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise ConfigError(f"--runs {text}: write NAME=RUN_DIR, such as after=output/demo/mic_strong.")
    return name, Path(folder)


def config_of_run(folder):
    """The config of a run, with its last weights."""
    for name in ("config.yaml", "model_final.pth"):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder} has no {name}: name the OUTPUT_DIR of a finished training.")
    return mic_det.get_mic_cfg(str(folder / "config.yaml"), ["MODEL.WEIGHTS", str(folder / "model_final.pth")])


def original_image(cfg, record):
    """The image (H, W, 3) in RGB at its own size, its true boxes and its true label map (H, W).

    The latter two are None where it has none.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TEST = "RGB", 0  # 0: not resized
    cfg.MODEL.MASK_ON = False
    mapped = DomainMapper.with_truth(cfg)(record)
    labels = mapped.get("sem_seg")
    rgb = mapped["image"].permute(1, 2, 0).numpy()
    return rgb, mapped.get("instances"), None if labels is None else torch.as_tensor(labels).numpy()


if __name__ == "__main__":
    start_program()
    try:
        main(parse_args())
    except MICError as e:
        sys.exit(f"error: {e}")
