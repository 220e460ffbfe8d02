"""Prepare GTA5, SYNTHIA and Cityscapes for domain-adaptive segmentation (docs/datasets.md shows their folders).

It makes the label maps of Cityscapes' 19 train ids, and counts their pixels for rare class sampling. Training does both
where they are missing. This program does them before training, in parallel.
Example:
    DETECTRON2_DATASETS=datasets python datasets/prepare_segmentation.py --sets gta5_train synthia_train
"""

import argparse
import sys

from detectron2.data import DatasetCatalog

from mic_det.data.datasets.cityscapes_labels import SEM_SEG_CLASSES
from mic_det.data.datasets.street_scenes import prepare_scenes, scene_sets
from mic_det.data.label_checks import label_map_problem
from mic_det.data.label_maps import IGNORED
from mic_det.data.rare_classes import count_classes
from mic_det.errors import DataError, MICError
from mic_det.utils.printable import printable
from mic_det.utils.programs import start_program


def main():
    labelled = [name for name, entry in scene_sets().items() if entry.labels]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sets", nargs="+", required=True, choices=labelled, metavar="SET", help=f"of {', '.join(labelled)}"
    )
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    args = parser.parse_args()
    if args.workers is not None and args.workers < 1:
        parser.error("--workers: use at least 1")
    try:
        for name in args.sets:
            prepare(name, args.workers)
    except MICError as e:
        sys.exit(f"error: {printable(e)}")
    except KeyboardInterrupt:
        sys.exit(130)


def prepare(name, workers):
    """Make the label maps of a set, count their pixels, and report both."""
    made = prepare_scenes(name, workers)
    dicts = DatasetCatalog.get(name)
    without = [d["file_name"] for d in dicts if "sem_seg_file_name" not in d]
    if without:
        raise DataError(f"{name}: image {without[0]} has no label map. Unpack the labels again, or remove the image.")
    counts = count_classes(dicts).sum(axis=0)
    unknown = [i for i, n in enumerate(counts) if n and i >= len(SEM_SEG_CLASSES) and i != IGNORED]
    if unknown:
        problems = (label_map_problem((d["sem_seg_file_name"], d["file_name"], 19, IGNORED)) for d in dicts)
        raise DataError(f"{name}: {next(filter(None, problems))}")
    labelled = counts[: len(SEM_SEG_CLASSES)]
    shares = ", ".join(f"{c} {n / max(labelled.sum(), 1):.2%}" for c, n in zip(SEM_SEG_CLASSES, labelled))
    print(f"{name}: {len(dicts)} images, {made} label maps made. Labelled pixels: {shares}")
    count = scene_sets()[name].count
    if count and count != len(dicts):
        print(
            f"warning: the public set has {count} images of {name}, but this folder has {len(dicts)}. Results cannot "
            "be compared: unpack it again.",
            file=sys.stderr,
        )


if __name__ == "__main__":
    start_program()
    main()
