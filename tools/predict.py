"""Find objects in images, folders of images and videos; write pictures, COCO JSON or CSV.

Examples:
    python tools/predict.py --config-file configs/minicity/mic.yaml --input photo.jpg drive.mp4 --output found \
        MODEL.WEIGHTS output/minicity/mic/model_final.pth
    python tools/predict.py --config-file configs/minicity/mic.yaml --input folder --output found \
        --format coco,csv --confidence-threshold 0.3 MODEL.WEIGHTS FILE MODEL.DEVICE cpu MODEL.MIC.EVALUATE student
"""

import argparse
import os
import sys
from pathlib import Path

from tqdm import tqdm

from mic_det.config import ConfigError
from mic_det.data.catalog import DataError
from mic_det.engine.checkpoint import CheckpointError
from mic_det.engine.media import VideoOut, find_sources, read_frames, write_picture
from mic_det.engine.predict import Predictor, class_list
from mic_det.engine.setup import add_model_arguments, config_of, split_opts
from mic_det.evaluation.export import Predictions
from mic_det.visualization.panels import draw_boxes

FORMATS = ("pictures", "coco", "csv")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--input", required=True, nargs="+", help="images, folders (searched recursively), videos")
    parser.add_argument("--output", required=True, help="folder for the results")
    parser.add_argument("--confidence-threshold", type=float, default=0.5, help="least score of a box (%(default)s)")
    parser.add_argument(
        "--format", default="pictures", help=f"one or more of {', '.join(FORMATS)}, joined by commas (%(default)s)"
    )
    add_model_arguments(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, as for train_net.py")
    args = parser.parse_args()
    args.input, args.opts = split_opts(args.input, args.opts)
    args.format = args.format.split(",")
    unknown = [f for f in args.format if f not in FORMATS]
    if unknown:
        parser.error(f"--format {unknown[0]!r}: use one or more of {', '.join(FORMATS)}, joined by commas")
    if not 0 <= args.confidence_threshold <= 1:
        parser.error(f"--confidence-threshold is {args.confidence_threshold}: use a number in [0, 1]")
    return args


def main(args):
    cfg = config_of(args)
    sources = find_sources(args.input)
    predictor = Predictor(cfg, args.confidence_threshold, args.trust_checkpoint)
    classes = class_list(cfg)
    predictions = Predictions(classes)
    try:
        os.makedirs(args.output, exist_ok=True)
    except OSError as e:
        raise DataError(f"cannot write to {args.output} ({e.strerror}): check --output.") from e
    skipped = Skipped()
    with tqdm(total=sum(s.frames if s.is_video else 1 for s in sources), unit="image") as progress:
        for source in sources:
            out = PictureOut(source, Path(args.output)) if "pictures" in args.format else None
            for frame in read_frames(source):
                if frame.rgb is None:
                    skipped.add(frame, progress)
                else:
                    found = predictor(frame.rgb)
                    predictions.add(frame, found)
                    if out is not None:
                        out.write(draw(frame.rgb, found, [name for _, name in classes]))
                progress.update()
            if out is not None:
                out.close()
    if not predictions.images:
        raise DataError(f"none of the {skipped.count} images could be read; see the lines above.")
    if "coco" in args.format:
        predictions.write_coco(args.output)
    if "csv" in args.format:
        predictions.write_csv(args.output)
    print(
        f"{len(predictions.images)} images, {len(predictions.annotations)} boxes with a score of at least "
        f"{args.confidence_threshold}, {skipped.count} skipped: {args.output}"
    )


class Skipped:
    """Names and counts what could not be read; of one file, at most the first few frames are named."""

    NAMED = 5

    def __init__(self):
        self.count, self.source, self.of_source = 0, None, 0

    def add(self, frame, progress):
        self.of_source = self.of_source + 1 if frame.source is self.source else 1
        self.count, self.source = self.count + 1, frame.source
        if self.of_source <= self.NAMED:
            at = "" if frame.index is None else f", frame {frame.index}"
            progress.write(f"skipped {frame.source.path}{at}: {frame.error}", file=sys.stderr)
        elif self.of_source == self.NAMED + 1:
            progress.write(f"skipped {frame.source.path}: more frames, which are only counted", file=sys.stderr)


def draw(rgb, found, class_names):
    boxes, labels = found.pred_boxes.tensor.numpy(), found.pred_classes.tolist()
    return draw_boxes(rgb, boxes, labels, found.scores.tolist(), class_names)


class PictureOut:
    """A source's pictures: one image below ``pictures``, or one video below ``videos``."""

    def __init__(self, source, folder):
        # the source's suffix stays in the name: a.jpg and a.png may lie side by side
        self.video = VideoOut(folder / "videos" / f"{source.name}.mp4", source.path) if source.is_video else None
        self.path = folder / "pictures" / f"{source.name}.jpg"

    def write(self, rgb):
        if self.video is not None:
            self.video.write(rgb)
        else:
            write_picture(self.path, rgb)

    def close(self):
        if self.video is not None:
            self.video.close()


if __name__ == "__main__":
    try:
        main(parse_args())
    except (ConfigError, DataError, CheckpointError) as e:
        sys.exit(f"error: {e}")
