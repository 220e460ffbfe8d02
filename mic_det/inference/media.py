"""Images and videos as they come from users: listed, read one frame at a time, and written."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import cv2
import numpy as np

from ..data.files import IMAGE_SUFFIXES, list_files
from ..errors import DataError
from ..utils.atomic_files import write_whole
from ..utils.ordinary_files import is_ordinary

VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}


@dataclass
class Source:
    """One file that was asked for: its path, the name that its results go by, and its number of frames."""

    path: Path
    name: str  # relative to the folder that was named, "/" between folders
    frames: Optional[int] = None  # of a video, as the file announces it (0 = unknown); None for an image

    @property
    def is_video(self):
        return self.frames is not None


@dataclass
class Frame:
    """One picture of a source; ``rgb`` (H, W, 3) uint8 is None where it could not be read, ``error`` says why."""

    source: Source
    rgb: Optional[np.ndarray]
    index: Optional[int] = None  # of a video's frame, from 0
    error: str = ""

    @property
    def name(self):
        return self.source.name if self.index is None else f"{self.source.name}#{self.index}"


def find_sources(inputs, option="--input"):
    """Files, folders (searched recursively) and videos as a list of :class:`Source`, folders sorted by name.

    Raises:
        DataError: where an input does not exist, is neither image nor video, or a folder has none of both.
    """
    sources = []
    for text in inputs:
        path = Path(os.path.expanduser(text))
        if path.is_dir():
            files = list_files(path, IMAGE_SUFFIXES | VIDEO_SUFFIXES)
            if not files:
                raise DataError(f"{option} {path}: the folder has no images and no videos.")
            sources += [_source(p, p.relative_to(path).as_posix()) for p in files]
        elif not path.exists():
            raise DataError(f"{option} {path}: there is no such file or folder.")
        elif not _is_media(path):
            known = ", ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
            raise DataError(f"{option} {path} is neither an image nor a video by its name. Known: {known}.")
        else:
            sources.append(_source(path, path.name))
    return _unique(sources)


def find_images(folder, option):
    """The images of a folder as a list of :class:`Source`. ``option`` (str) named the folder, such as ``--verify``.

    Raises:
        DataError: where there are none.
    """
    sources = [s for s in find_sources([folder], option) if not s.is_video]
    if not sources:
        raise DataError(f"{option} {folder}: there are no images, only videos.")
    return sources


def _is_media(path):
    return path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES


def _source(path, name):
    if path.suffix.lower() not in VIDEO_SUFFIXES or not is_ordinary(path):
        return Source(path, name)
    video = cv2.VideoCapture(str(path))
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
    video.release()
    return Source(path, name, max(0, count))


def _unique(sources):
    """Sources of the same name (of two folders) get a number, so that no result overwrites another."""
    taken = set()
    for source in sources:
        name, number = source.name, 1
        while name in taken:
            number += 1
            name = f"{number}/{source.name}"
        source.name = name
        taken.add(name)
    return sources


def read_frames(source, read=None):
    """The frames of one source in their order; a frame that cannot be read comes with an error, not an exception.

    Images are turned upright by their EXIF tag, as Detectron2 does in training.

    Args:
        source (Source): the file.
        read (callable): of an image's path, returns its RGB pixels; by default as in training.
    """
    if source.is_video:
        yield from _read_video(source)
        return
    try:
        yield Frame(source, (read or _read_as_in_training)(source.path))
    except Exception as e:  # PIL's decoders raise errors of all kinds for broken files
        yield Frame(source, None, error=" ".join(str(e).split()) or type(e).__name__)


def _read_as_in_training(path):
    from ..data.pixels import read_rgb  # with Detectron2, which a .onnx file does without

    return read_rgb(path)


def _read_video(source):
    video = cv2.VideoCapture(str(source.path))
    if not video.isOpened():
        yield Frame(source, None, error="not a video that OpenCV can open")
        return
    try:
        index = 0
        while True:
            read, bgr = video.read()
            if read:
                yield Frame(source, np.ascontiguousarray(bgr[:, :, ::-1]), index)
            elif index < source.frames:  # a broken frame: the next may be whole again
                yield Frame(source, None, index, error="cannot be decoded")
            else:
                return
            index += 1
    finally:
        video.release()


class VideoOut:
    """An .mp4 of RGB frames, as large as the first one and as fast as the video it was made from."""

    def __init__(self, path, like):
        """``path`` is written to when the first frame comes."""
        video = cv2.VideoCapture(str(like))
        self.rate = video.get(cv2.CAP_PROP_FPS)
        video.release()
        if not 0 < self.rate < 1000:  # unknown
            self.rate = 25.0
        self.path, self.writer, self.size = Path(path), None, None

    def write(self, rgb):
        """
        Raises:
            DataError: where the file cannot be written.
        """
        if self.writer is None:
            self.size = rgb.shape[1] // 2 * 2, rgb.shape[0] // 2 * 2  # the codec wants even sides
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter_fourcc(*"mp4v"), self.rate, self.size)
            if not self.writer.isOpened():
                raise DataError(f"cannot write {self.path}: check --output.")
        if (rgb.shape[1], rgb.shape[0]) != self.size:
            rgb = cv2.resize(rgb, self.size, interpolation=cv2.INTER_AREA)
        self.writer.write(np.ascontiguousarray(rgb[:, :, ::-1]))

    def close(self):
        if self.writer is not None:
            self.writer.release()


def write_picture(path, rgb):
    """Write an RGB picture and the folders above it.

    Raises:
        DataError: where that is not possible.
    """
    _write_image(Path(path), np.ascontiguousarray(rgb[:, :, ::-1]))


def write_label_map(path, labels):
    """Write labels (H, W) in [0, 255] as an 8-bit PNG, as Detectron2 reads label maps, and the folders above it.

    Raises:
        DataError: where that is not possible.
    """
    labels = np.asarray(labels)
    if labels.size and not 0 <= labels.min() <= labels.max() <= 255:
        raise DataError(f"{path}: labels from {labels.min()} to {labels.max()} do not fit into an 8-bit label map.")
    _write_image(Path(path), labels.astype(np.uint8))


def _write_image(path, array):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = cv2.imencode(path.suffix, array)[1]
        write_whole(path, lambda f: f.write(content.tobytes()))
    except (OSError, cv2.error) as e:
        raise DataError(f"cannot write {path}: is the folder writable, and is there space on the disk?") from e
