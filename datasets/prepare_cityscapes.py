"""Make COCO files of Cityscapes and Foggy Cityscapes: eight classes, tight boxes of visible pixels, groups as crowd.

Training makes the files that it needs. This program makes them before training, in parallel.
Example:
    python datasets/prepare_cityscapes.py --root datasets/cityscapes --split train val --beta 0.02
"""

import argparse
import json
import os
import sys
from collections import Counter
from pathlib import Path

from mic_det.data.datasets.builtin import coco_name, foggy_annotations, split_annotations
from mic_det.data.datasets.cityscapes import SOURCES
from mic_det.errors import MICError
from mic_det.utils.ordinary_files import is_ordinary
from mic_det.utils.outputs import Outputs
from mic_det.utils.printable import printable
from mic_det.utils.programs import start_program


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.path.join(os.environ.get("DETECTRON2_DATASETS", "datasets"), "cityscapes")
    parser.add_argument("--root", default=root, help="folder with gtFine and leftImg8bit (default: %(default)s)")
    parser.add_argument("--output", help="folder of the COCO files (default: ROOT/annotations)")
    parser.add_argument("--split", nargs="+", default=["train", "val"], help="default: train val")
    parser.add_argument("--beta", nargs="*", default=[], help="also for foggy images of one or several betas")
    parser.add_argument("--source", choices=SOURCES, help="default: instanceIds where these files exist")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--overwrite", action="store_true", help="make existing files again")
    args = parser.parse_args()
    if args.workers is not None and args.workers < 1:
        parser.error("--workers: use at least 1")
    root = Path(args.root)
    output = Path(args.output) if args.output else root / "annotations"
    try:
        for split in args.split:
            content = split_annotations(root, split, args.source, args.workers, args.overwrite)
            store(content, output / coco_name(split), args.overwrite)
            for beta in args.beta:
                store(foggy_annotations(content, beta), output / coco_name(split, beta), args.overwrite)
            print(f"{split}: {summary(content)}")
    except (OSError, ValueError, MICError) as e:
        sys.exit(f"error: {printable(e)}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(f"written to {printable(output)}")


def store(content, path, overwrite):
    """Write a COCO file, unless it has this content already. Files of other programs are not overwritten."""
    text = json.dumps(content, sort_keys=True)
    if not (is_ordinary(path) and path.read_bytes() == text.encode()):
        Outputs(path.parent, "cityscapes", overwrite=overwrite).write_text(path.name, text)


def summary(content):
    """Images, images without a box, boxes per class and groups, in one line."""
    names = {c["id"]: c["name"] for c in content["categories"]}
    single = [a for a in content["annotations"] if not a["iscrowd"]]
    counts = Counter(names[a["category_id"]] for a in single)
    empty = len(content["images"]) - len({a["image_id"] for a in single})
    boxes = ", ".join(f"{name} {counts[name]}" for name in names.values())
    groups = len(content["annotations"]) - len(single)
    return f"{len(content['images'])} images ({empty} without a box), {len(single)} boxes ({boxes}), {groups} groups"


if __name__ == "__main__":
    start_program()
    main()
