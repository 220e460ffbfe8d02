"""One judgement of an image file, for the check of data sets, training, evaluation and prediction alike."""

import os
import stat
from dataclasses import dataclass

import numpy as np
from detectron2.data.detection_utils import read_image
from detectron2.data.transforms import ResizeShortestEdge
from PIL import Image, UnidentifiedImageError

from ..config.label_kinds import label_kinds

# modes of PIL that become RGB without loss of more than transparency
EIGHT_BITS = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}
TRANSPARENT = {"LA", "La", "PA", "RGBA", "RGBa"}
EXIF_ORIENTATION, EXIF_TURNED = 274, (5, 6, 7, 8)  # a quarter turn: width and height change places


class ImageError(ValueError):
    """An image or label map that cannot be used. The text follows the file's name: "is 5 x 4 pixels, ...".

    ``unreadable``: the text of the error where the file could not be decoded, else "".
    """

    def __init__(self, text, unreadable=""):
        super().__init__(text)
        self.unreadable = unreadable


@dataclass(frozen=True)
class Resize:
    """How a config resizes images: lengths of the shorter side, the limit of the longer one, and the keys' suffix."""

    shorter: tuple
    longer: int
    keys: str  # "TRAIN" or "TEST"

    @classmethod
    def from_config(cls, cfg, is_train):
        if label_kinds(cfg) == ("image_class",):  # INPUT.IMAGE_CLASS: squares of a side above 0
            return cls((), 0, "")
        if is_train:
            return cls(tuple(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN, "TRAIN")
        return cls((cfg.INPUT.MIN_SIZE_TEST,), cfg.INPUT.MAX_SIZE_TEST, "TEST")

    def check(self, width, height):
        """
        Raises:
            ImageError: where an image of these sides gets a side of 0 pixels.
        """
        for length in self.shorter:
            if length:  # 0: images are not resized
                h, w = ResizeShortestEdge.get_output_shape(height, width, length, self.longer)
                if min(h, w) < 1:
                    raise ImageError(
                        f"is {width} x {height} pixels, which INPUT.MIN_SIZE_{self.keys} and MAX_SIZE_{self.keys} "
                        f"resize to {w} x {h}: cut it into parts, or pad it"
                    )


@dataclass(frozen=True)
class ImageFacts:
    """``size``: (width, height) as Detectron2 reads the file, turned upright by its EXIF tag."""

    size: tuple
    orientation: int  # EXIF's; 1 = as it is
    mode: str
    transparent: bool


def check_image(file, annotated=None, resize=None, decode=False):
    """Judge an image by its header, and by its pixels where asked for. Detectron2 converts pixels without a word.

    Args:
        file (path or binary file): the image.
        annotated (tuple): (width, height) in its annotation; None where there is none.
        resize (Resize): what becomes of it; None where that is not known.
        decode (bool): decode all of it.

    Returns:
        ImageFacts: with ``annotated`` or ``decode``; else None, as reading the orientation may take a decoding.

    Raises:
        ImageError: where it cannot be opened or decoded, is no ordinary file, has pixels of more than 8 bits (they
            would be cut off at 255), has another size than annotated, or a side that is resized to 0.
    """
    with _opened(file) as image:
        if image.mode not in EIGHT_BITS:
            raise ImageError(
                f"has pixels that are not of 8 bits but PIL's {image.mode}: scale them, and save it as 8 bits"
            )
        if resize is not None:
            resize.check(*image.size)  # a quarter turn changes nothing
        if annotated is None and not decode:
            return None
        if decode:
            image.load()
        facts = ImageFacts(
            upright_size(image), orientation(image), image.mode,
            image.mode in TRANSPARENT or "transparency" in image.info,
        )  # fmt: skip
        if annotated is not None:
            _check_size(facts.size, image.size, tuple(annotated))
        return facts


def read_rgb(file):
    """An image as RGB (H, W, 3) uint8, turned upright by its EXIF tag, as Detectron2 reads it in training.

    Raises:
        ImageError: as :func:`check_image`.
        Exception: of the decoder, which may be of any kind.
    """
    check_image(file)
    return np.ascontiguousarray(read_image(str(file), "RGB"))


def _check_size(upright, in_file, annotated):
    if annotated == upright:
        return
    told = f"annotated as {annotated[0]} x {annotated[1]}"
    if annotated == in_file:
        raise ImageError(
            f"is {upright[0]} x {upright[1]} pixels once it is turned upright, as its EXIF tag says and Detectron2 "
            f"does, but {told}, as it lies in the file: turn the annotations too, or remove the tag from the image"
        )
    raise ImageError(f"is {upright[0]} x {upright[1]} pixels, {told}: do images and annotations belong together?")


def annotated_size(dataset_dict):
    """(width, height) that a dataset dict says of its image; None where it does not."""
    size = dataset_dict.get("width"), dataset_dict.get("height")
    return None if None in size else size


def check_label_map(file, decode=False):
    """
    Raises:
        ImageError: where a label map cannot be read, or is not of 8-bit grey pixels: colours would be taken for labels.
    """
    with _opened(file) as image:
        if image.mode != "L":
            raise ImageError(f"is not 8-bit grey but PIL's {image.mode}: a pixel must be its label")
        if decode:
            image.load()


def orientation(image):
    """The EXIF orientation of an opened image, which Detectron2 turns upright; 1 where there is none."""
    try:
        return image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # a broken tag, which Detectron2 passes over too
        return 1


def upright_size(image):
    """(width, height) of an opened image as Detectron2 reads it."""
    return image.size[::-1] if orientation(image) in EXIF_TURNED else image.size


class _opened:
    """``Image.open`` whose errors, and those of what is done with the image, are ImageErrors."""

    def __init__(self, file):
        self.file, self.image = file, None

    def __enter__(self):
        try:
            if isinstance(self.file, (str, os.PathLike)):
                check_ordinary(self.file)
            self.image = Image.open(self.file)
            return self.image.__enter__()
        except Exception as e:
            raise _as_image_error(e) from e

    def __exit__(self, kind, error, traceback):
        self.image.__exit__(kind, error, traceback)
        if isinstance(error, Exception) and not isinstance(error, ImageError):
            raise _as_image_error(error) from error


def check_ordinary(file):
    """
    Raises:
        ImageError: for pipes, devices, sockets and folders: opening one may wait for ever.
        OSError: where there is no such file.
    """
    if not stat.S_ISREG(os.stat(file).st_mode):
        raise ImageError("is not an ordinary file" if not os.path.isdir(file) else "is a folder")


def _as_image_error(error):
    """PIL and its decoders raise errors of all kinds for broken files."""
    if isinstance(error, ImageError):
        return error
    if isinstance(error, FileNotFoundError):
        return ImageError("is missing", unreadable=str(error))
    if isinstance(error, UnidentifiedImageError):  # its text has the address of an object in memory
        error = "it is no image that PIL knows"
    text = " ".join(str(error).split()) or type(error).__name__
    return ImageError(f"cannot be read ({text})", unreadable=text)
