"""Find objects in images, folders of images and videos, and label their pixels where the model can.

Written are pictures, COCO JSON and CSV of the boxes, and label maps: 8-bit PNG whose values are the classes listed in
label_maps/classes.txt.

Examples:
    python tools/predict.py --config-file configs/minicity/mic.yaml --input photo.jpg drive.mp4 --output found \
        MODEL.WEIGHTS output/minicity/mic/model_final.pth
    python tools/predict.py --config-file configs/minicity/mic.yaml --input folder --output found \
        --format coco,csv --confidence-threshold 0.3 MODEL.WEIGHTS FILE MODEL.DEVICE cpu MODEL.MIC.EVALUATE student
    python tools/predict.py --config-file configs/minicity/semseg_mic.yaml --input folder --output found \
        --format pictures,label_maps MODEL.WEIGHTS FILE
"""

import argparse
import os
import sys
from pathlib import Path

from tqdm import tqdm

from mic_det.config import ConfigError, needs_boxes, needs_sem_seg, student_architecture
from mic_det.data.catalog import DataError
from mic_det.engine.checkpoint import CheckpointError
from mic_det.engine.media import VideoOut, find_sources, read_frames, write_label_map, write_picture
from mic_det.engine.predict import Predictor, class_list, label_map_classes
from mic_det.engine.setup import add_model_arguments, config_of, split_opts
from mic_det.evaluation.export import Predictions
from mic_det.visualization.panels import draw_boxes
from mic_det.visualization.sem_seg import overlay_labels

FORMATS = ("pictures", "label_maps", "coco", "csv")


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
    check_formats(cfg, args.format)
    predictor = Predictor(cfg, args.confidence_threshold, args.trust_checkpoint)
    classes = class_list(cfg) if predictor.has_boxes else []
    predictions = Predictions(classes)
    try:
        os.makedirs(args.output, exist_ok=True)
    except OSError as e:
        raise DataError(f"cannot write to {args.output} ({e.strerror}): check --output.") from e
    if "label_maps" in args.format:
        write_class_names(Path(args.output) / "label_maps" / "classes.txt", label_map_classes(cfg))
    skipped = Skipped()
    with tqdm(total=sum(s.frames if s.is_video else 1 for s in sources), unit="image") as progress:
        for source in sources:
            out = PictureOut(source, Path(args.output)) if "pictures" in args.format else None
            for frame in read_frames(source):
                if frame.rgb is None:
                    skipped.add(frame, progress)
                else:
                    found = predictor(frame.rgb)
                    predictions.add(frame, found.get("instances"))
                    if "label_maps" in args.format:
                        write_label_map(label_map_path(frame, Path(args.output)), found["label_map"])
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
    boxes = f", {len(predictions.annotations)} boxes with a score of at least {args.confidence_threshold}"
    boxes = boxes if predictor.has_boxes else ""
    print(f"{len(predictions.images)} images{boxes}, {skipped.count} skipped: {args.output}")


def check_formats(cfg, formats):
    """
    Raises:
        ConfigError: where a file is asked for that the model has nothing to write to.
    """
    model, boxes, pixels = student_architecture(cfg), needs_boxes(cfg), needs_sem_seg(cfg)
    if "label_maps" in formats and not pixels:
        raise ConfigError(f"--format label_maps: {model} predicts boxes alone.")
    for name in ("coco", "csv"):
        if name in formats and not boxes:
            raise ConfigError(f"--format {name}: {model} predicts pixels alone: use label_maps.")
    count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if "label_maps" in formats and count > 255:
        raise ConfigError(
            f"--format label_maps: MODEL.SEM_SEG_HEAD.NUM_CLASSES is {count}, but an 8-bit PNG holds at most 255."
        )


def label_map_path(frame, folder):
    """One PNG an image, and one a frame of a video, in a folder of the video's name."""
    name = frame.source.name if frame.index is None else f"{frame.source.name}/{frame.index:06d}"
    return folder / "label_maps" / f"{name}.png"


def write_class_names(path, names):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{i} {name}\n" for i, name in enumerate(names)), encoding="utf-8")
    except OSError as e:
        raise DataError(f"cannot write {path} ({e.strerror}): check --output.") from e


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
    """The image, under the colours of its labels where the model has them, with its boxes."""
    if "label_map" in found:
        rgb = overlay_labels(rgb, found["label_map"].numpy())
    if "instances" not in found:
        return draw_boxes(rgb, [], [])
    boxes = found["instances"]
    labels = boxes.pred_classes.tolist()
    return draw_boxes(rgb, boxes.pred_boxes.tensor.numpy(), labels, boxes.scores.tolist(), class_names)


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
