"""The inputs of `mic-det adapt`: labelled images or a trained model, and images without labels."""

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ...config.bundled import find_config
from ...data.coco.annotation_file import read_coco
from ...data.coco.normalize import read_normalized
from ...data.files import IMAGE_SUFFIXES, list_images
from ...data.formats.convert import to_coco
from ...data.formats.recognise import recognise
from ...errors import ConfigError, DataError
from ...inference.media import VIDEO_SUFFIXES, find_sources, read_frames, write_picture
from ...utils.atomic_files import write_whole

MOST_SIZES = 200  # at most this number of images are opened to learn the sizes in a folder
WEIGHTS = {".pth", ".pkl", ".pt", ".safetensors"}


@dataclass
class LabelledImages:
    """A labelled set, as an entry of ``DATASETS.CUSTOM``, and its content. Paths are absolute."""

    json: str
    images: str
    kind: str
    classes: list
    files: list
    num_boxes: int
    sizes: list  # (width, height) of each image
    notes: list = field(default_factory=list)
    content: str = ""  # of ``json``, where that is yet to be written

    def entry(self):
        return {"JSON": self.json, "IMAGES": self.images}

    def identity(self):
        content = self.content.encode() or Path(self.json).read_bytes()
        return f"{self.images}, {len(self.files)} images, labels {_digest(content)}"

    def write(self):
        if self.content:
            Path(self.json).parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.json, lambda f: f.write(self.content.encode()))


@dataclass
class SourceModel:
    """A trained source model: its weights, and its config, which names its labelled images."""

    config_file: str
    weights: str
    source_free: bool = False  # whether its labelled images are not used

    def identity(self):
        return f"{self.weights} with {self.config_file}"


@dataclass
class TargetImages:
    """Images without labels: all of a folder, or those of it that a COCO file lists."""

    images: str  # the folder
    files: list
    sizes: list
    what: str
    json: str = ""
    left_out: int = 0  # images of the folder that ``json`` does not list

    def entry(self):
        return {"JSON": self.json, "IMAGES": self.images} if self.json else {"IMAGES": self.images}

    def identity(self):
        names = "\n".join(f"{f} {os.path.getsize(f)}" for f in self.files)
        return f"{self.what}, {len(self.files)} images {_digest(names.encode())}"

    def without(self, files, json_file):
        """The images except some. Writes the list of those that stay."""
        left_out = set(map(str, files))
        names = [os.path.relpath(f, self.images) for f in self.files if str(f) not in left_out]
        text = json.dumps({"images": [{"file_name": name} for name in names]}, indent=1)
        Path(json_file).parent.mkdir(parents=True, exist_ok=True)
        write_whole(json_file, lambda f: f.write(text.encode()))
        return self.listed(json_file)

    def listed(self, json_file):
        """The images that a file of :meth:`without` lists."""
        listed = {x["file_name"] for x in json.loads(Path(json_file).read_text(encoding="utf-8"))["images"]}
        files = [f for f in self.files if os.path.relpath(f, self.images) in listed]
        return replace(self, files=files, json=str(json_file), left_out=len(self.files) - len(files))


def _digest(content):
    return hashlib.sha1(content).hexdigest()[:12]


def read_source(args, folder):
    """
    Returns:
        LabelledImages or SourceModel

    Raises:
        DataError, ConfigError: where SOURCE is neither.
    """
    path = Path(os.path.expanduser(args.source))
    if path.is_dir() and (path / "config.yaml").is_file() and list(path.glob("model_*.pth")):
        weights = path / "model_final.pth"
        if not weights.is_file():
            raise DataError(
                f"SOURCE {path} is a run without model_final.pth: let it finish, or name one of its checkpoints."
            )
        return SourceModel(str((path / "config.yaml").resolve()), str(weights.resolve()), bool(args.source_checkpoint))
    if path.suffix.lower() in WEIGHTS:
        if not path.is_file():
            raise DataError(f"SOURCE {path}: there is no such file.")
        if not args.config_file:
            raise ConfigError(f"SOURCE {path} is a file of weights: name the config of its model with --config-file.")
        config_file = os.path.abspath(find_config(args.config_file))
        return SourceModel(config_file, str(path.resolve()), bool(args.source_checkpoint))
    if args.source_checkpoint:
        raise DataError(
            f"--source-checkpoint {path} is neither a folder of a run, with config.yaml and model_final.pth, nor a "
            f"file of weights ({', '.join(sorted(WEIGHTS))})."
        )
    return read_labelled(args.source, "train", "SOURCE", Path(folder) / "data/source.json", args.classes)


def read_labelled(path, role, argument, file, classes=None, model_classes=()):
    """A labelled set. Its ``write`` makes ``file`` where its labels are not COCO, or only some classes are wanted.

    Args:
        classes (list[str]): the classes to learn, in this order; None = all.
        model_classes (list[str]): the classes that the model knows. Pascal VOC lists no classes, so test images may
            lack some of them.
    """
    found = recognise(path, role, argument)
    if found.kind == "COCO":
        content, notes, labels, images = read_coco(argument, found.json), [], found.json, found.images
    else:
        (content, notes), labels, images = to_coco(found), file, found.path
        if found.kind == "Pascal VOC":
            _list_classes(content, model_classes)
    normalized = read_normalized(argument, labels, content)
    known = normalized.classes
    if normalized.unused_parent and classes is None:
        notes.append(f"the class {normalized.unused_parent} is left out: it has no box, and it is the others' parent.")
        classes = [c for c in known if c != normalized.unused_parent]
    unknown = [c for c in classes or () if c not in known]
    if unknown and (role == "train" or len(unknown) == len(classes)):  # test images may lack some
        raise DataError(f"--classes names {unknown[0]}, but the classes of {argument} are {', '.join(known)}.")
    if classes:
        content = _only(content, classes)
        normalized = read_normalized(argument, labels, content)
    text = ""
    if classes or found.kind != "COCO":
        labels, text = Path(file), json.dumps(content)
    return LabelledImages(
        str(Path(labels).resolve()), str(Path(images).resolve()), found.describe(), list(normalized.classes),
        [os.path.join(images, x["file_name"]) for x in normalized.images],
        sum(len(boxes) for boxes in normalized.annotations.values()),
        [(int(x["width"]), int(x["height"])) for x in normalized.images], notes, text,
    )  # fmt: skip


def _list_classes(content, names):
    """Add those of some classes that a COCO file's content does not list."""
    known = {c["name"] for c in content["categories"]}
    for name in names:
        if name not in known:
            content["categories"].append({"id": len(content["categories"]) + 1, "name": name})


def _only(content, classes):
    """A COCO file's content with only these classes, whose ids are 1, 2, ... in this order."""
    old = {c["id"]: c["name"].strip() for c in content["categories"]}
    ids = {name: i + 1 for i, name in enumerate(classes)}
    kept = [a for a in content["annotations"] if old.get(a.get("category_id")) in ids]
    kept = [{**a, "category_id": ids[old[a["category_id"]]]} for a in kept]
    categories = [{"id": i, "name": name} for name, i in ids.items()]
    return {**content, "annotations": kept, "categories": categories}


def read_target(args, folder, source):
    """
    Raises:
        DataError: where there are no images, or they are the source's.
    """
    path = Path(os.path.expanduser(args.target))
    what = f"images of {path.resolve()}"
    if path.is_dir():
        images = path
    elif path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        # a folder for each video and number: frames of one are never taken for those of another
        asked = f"{args.frames} {path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}"
        images = Path(folder) / f"data/frames_{_digest(asked.encode())}"
        what = f"at most {args.frames} frames of {path.resolve()}"
        extract_frames(path, images, args.frames)
    else:
        problem = "is neither a folder of images nor a video" if path.exists() else "does not exist"
        raise DataError(f"TARGET {path} {problem}.")
    files = list_images(images.resolve())
    if not files:
        videos = [p.name for p in path.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES]
        hint = f" It has videos: name one, such as {videos[0]}." if videos else ""
        raise DataError(f"TARGET {path}: no images ({', '.join(sorted(IMAGE_SUFFIXES))}) below it.{hint}")
    common = {os.path.realpath(f) for f in files} & {os.path.realpath(f) for f in getattr(source, "files", ())}
    if common:
        raise DataError(
            f"{len(common)} images are in SOURCE and in TARGET, such as {min(common)}: put those of the target "
            "into a folder of their own."
        )
    return TargetImages(str(images.resolve()), files, _sizes(files), what)


def _sizes(files):
    """(width, height) of some images, evenly spread. Unreadable files are skipped: the check reports them."""
    sizes = []
    for i in np.unique(np.linspace(0, len(files) - 1, MOST_SIZES).astype(int)):
        try:
            with Image.open(files[i]) as image:
                sizes.append(image.size)
        except Exception:  # noqa: S112 - PIL raises errors of all kinds
            continue
    return sizes


def extract_frames(video, folder, most):
    """Write at most ``most`` frames of a video, evenly spread, as ``frame_INDEX.jpg``, unless they have been written.

    Raises:
        DataError: where the video cannot be read.
    """
    done = folder / "complete"
    if done.is_file():
        return
    (source,) = find_sources([str(video)])
    total = sum(1 for _ in read_frames(source))  # the count in the file's header is often wrong
    chosen = set(np.unique(np.linspace(0, total - 1, most).round().astype(int)).tolist()) if total else set()
    written = 0
    for frame in read_frames(source):
        if frame.index in chosen and frame.rgb is not None:
            write_picture(folder / f"frame_{frame.index:06d}.jpg", frame.rgb)
            written += 1
    if not written:
        raise DataError(f"TARGET {video}: no frame of this video can be read.")
    done.touch()
