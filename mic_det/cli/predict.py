"""Find objects in images, folders of images and videos. Models with a segmentation head also label the pixels."""

import contextlib
import sys

from ..errors import ConfigError, DataError
from ..inference.media import VideoOut, find_sources, read_frames, write_label_map, write_picture
from ..inference.results import FILES, PredictionFiles, Predictions
from ..utils.outputs import Outputs
from ..utils.printable import printable
from ..utils.progress import progress_bar
from ..utils.signals import ends_in_order
from ..visualization.label_colors import overlay_labels

LABEL_MAPS = "label_maps"  # folder below the output


def main(args):
    with ends_in_order():  # a signal ends the program after the results so far are written
        predict(args)


def chosen_model(args):
    """What the arguments name: a .onnx file, which is run without PyTorch, or a config and a checkpoint."""
    if args.weights and args.weights.endswith(".onnx"):
        from .predict_onnx import OnnxModel

        return OnnxModel(args)
    from .predict_checkpoint import CheckpointModel

    return CheckpointModel(args)


def predict(args):
    model = chosen_model(args)
    sources = find_sources(args.input)
    check_formats(model, args.format)
    inputs = [*args.input, *(s.path for s in sources), *model.files]
    outputs = Outputs(args.output, "predict", inputs, args.overwrite)
    names = [name for f in args.format for name in FILES.get(f, ())]
    names += [picture_name(s) for s in sources] * ("pictures" in args.format)
    labels = LABEL_MAPS if "label_maps" in args.format else None
    names += [f"{labels}/classes.txt", *(label_map_name(s) for s in sources if not s.is_video)] if labels else []
    outputs.check(names)
    model.load()
    classes = model.classes
    if labels:
        text = "".join(f"{i} {name}\n" for i, name in enumerate(model.label_names))
        outputs.write_text(f"{labels}/classes.txt", text)
    predictions = Predictions(classes, model.skeleton.classes if model.skeleton else None)
    skipped = Skipped()
    files = PredictionFiles(predictions, outputs, args.format)
    total = sum(s.frames if s.is_video else 1 for s in sources)
    with progress_bar(total, "image") as progress, contextlib.ExitStack() as at_end:
        at_end.callback(lambda: predictions.images and files.write())  # also after an error, or a signal
        for source in sources:
            with contextlib.ExitStack() as of_source:
                out = PictureOut(source, outputs, of_source) if "pictures" in args.format else None
                for frame in read_frames(source, model.read):
                    found, picture = look(model, frame, [name for _, name in classes], out is not None)
                    if found is None:
                        skipped.add(frame, progress)
                    else:
                        masks = found.get("masks") if "coco" in args.format else None  # no other file has them
                        predictions.add(frame, found.get("instances"), masks, found.get("keypoints"))
                        if labels:
                            with outputs.writing(label_map_name(source, frame.index)) as file:
                                write_label_map(file, found["label_map"])
                        if picture is not None:
                            out.write(picture)
                        files.update()
                    progress.update()
    if not predictions.images:
        raise DataError(f"none of the {skipped.count} images could be used: the lines above give the reasons.")
    boxes = f", {len(predictions.annotations)} boxes with a score of at least {args.confidence_threshold}"
    boxes = boxes if "boxes" in model.kinds else ""
    print(f"{len(predictions.images)} images{boxes}, {skipped.count} skipped: {printable(args.output)}")


def check_formats(model, formats):
    """
    Raises:
        ConfigError: where the model does not predict the content of a requested file.
    """
    if "label_maps" in formats and "pixels" not in model.kinds:
        raise ConfigError(f"--format label_maps: {model.name} predicts boxes alone: use pictures, coco or csv.")
    for name in ("coco", "csv"):
        if name in formats and "boxes" not in model.kinds:
            raise ConfigError(f"--format {name}: {model.name} predicts pixels alone: use pictures or label_maps.")
    if "label_maps" in formats and model.label_count > 255:
        raise ConfigError(
            f"--format label_maps: MODEL.SEM_SEG_HEAD.NUM_CLASSES is {model.label_count}, but an 8-bit PNG holds at "
            "most 255."
        )


def look(model, frame, class_names, picture):
    """Predictions on a frame, and their picture where requested. On an error: None for both, and ``frame.error``."""
    if frame.rgb is None:
        return None, None
    try:
        found = model(frame.rgb)
        return found, draw(model, frame.rgb, found, class_names) if picture else None
    except Exception as e:  # one image must not stop the others: it is reported with the reason
        frame.error = reason(e)
        return None, None


class Skipped:
    """Reports and counts images and frames that were skipped. Of one file, only the first few frames are reported."""

    NAMED = 5

    def __init__(self):
        self.count, self.source, self.of_source = 0, None, 0

    def add(self, frame, progress):
        self.of_source = self.of_source + 1 if frame.source is self.source else 1
        self.count, self.source = self.count + 1, frame.source
        if self.of_source <= self.NAMED:
            at = "" if frame.index is None else f", frame {frame.index}"
            progress.write(printable(f"skipped {frame.source.path}{at}: {frame.error}"), file=sys.stderr)
        elif self.of_source == self.NAMED + 1:
            line = printable(f"skipped {frame.source.path}: further frames are counted, but not listed")
            progress.write(line, file=sys.stderr)


def reason(error):
    """One line about an error. It begins with the error's type, except for an ImageError."""
    text = " ".join(str(error).split())[:300]
    judged = isinstance(error, DataError) or type(error).__name__ == "ImageError"  # the second comes with Detectron2
    return text if judged else f"{type(error).__name__}: {text}"


def draw(model, rgb, found, class_names):
    """The image with its boxes and, where the model has them, its masks, keypoints and the colours of its labels."""
    if "label_map" in found:
        rgb = overlay_labels(rgb, found["label_map"])
    if "instances" not in found:
        return model.draw_boxes(rgb, [], [])
    boxes, scores, labels = found["instances"]
    if "masks" in found:
        rgb = model.draw_masks(rgb, found["masks"], labels.tolist())
    more = {}
    if "keypoints" in found:
        more = {"keypoints": model.skeleton.styled(found["keypoints"], labels.tolist()), "skeleton": model.skeleton}
    return model.draw_boxes(rgb, boxes, labels.tolist(), scores.tolist(), class_names, **more)


def label_map_name(source, frame=None):
    """File name of a label map: one PNG per image, or one per frame in a folder with the video's name."""
    return f"{LABEL_MAPS}/{source.name}{'' if frame is None else f'/{frame:06d}'}.png"


def picture_name(source):
    """File name of a result: an image below ``pictures``, or a video below ``videos``."""
    return f"videos/{source.name}.mp4" if source.is_video else f"pictures/{source.name}.jpg"


class PictureOut:
    """The picture or video of a source. A video is complete once ``at_end`` is closed."""

    def __init__(self, source, outputs, at_end):
        self.source, self.outputs, self.at_end, self.video = source, outputs, at_end, None

    def write(self, rgb):
        name = picture_name(self.source)
        if not self.source.is_video:
            with self.outputs.writing(name) as file:
                write_picture(file, rgb)
            return
        if self.video is None:
            self.video = VideoOut(self.at_end.enter_context(self.outputs.finishing(name)), self.source.path)
            self.at_end.callback(self.video.close)
        self.video.write(rgb)
