"""Rare class sampling (DAFormer, Sec. 3.3): source images with rare classes come more often."""

import functools
import hashlib
import itertools
import logging
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from detectron2.utils import comm
from torch.utils.data import Dataset, Sampler

from ..errors import DataError
from ..utils.atomic_files import write_whole
from ..utils.ordinary_files import open_picture
from ..utils.progress import progress_bar
from .fingerprint import file_fingerprints
from .label_maps import cache_folder

logger = logging.getLogger(__name__)
LABELS = 256  # of an 8-bit label map


def count_classes(dicts, progress=True):
    """Pixels of each label in each image's label map. They are counted once and kept in the user's cache folder.

    The maps' names, sizes and times tell whether the counts are still theirs.

    Args:
        dicts (list[dict]): Detectron2's, with ``"sem_seg_file_name"``.
        progress (bool): whether a bar is shown while pixels are counted.

    Returns:
        ndarray: (number of images, 256) int64.

    Raises:
        DataError: where an image has no label map, or one cannot be read; names it.
    """
    files = [x.get("sem_seg_file_name") for x in dicts]
    if None in files:
        raise DataError(
            f"image {dicts[files.index(None)]['file_name']} has no label map, which DATALOADER.SAMPLER_TRAIN "
            "RareClassSampler needs: add SEM_SEG to the set in DATASETS.CUSTOM, or use TrainingSampler."
        )
    cache = _cache_file(files)
    counts = _read(cache, len(files))
    if counts is None:
        distinct = sorted(set(files))  # several images may share a label map
        # Threads, as OpenCV decodes without Python's lock. Processes would import the user's program again.
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            found = {}
            with progress_bar(len(distinct), "image", "pixels of each class", progress) as bar:
                for file, counted in zip(distinct, pool.map(_count, distinct)):
                    found[file] = counted
                    bar.update()
        counts = np.stack([found[f] for f in files])
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_whole(cache, functools.partial(np.savez_compressed, counts=counts))
        except OSError as e:
            logger.warning("The counts of classes are not kept (%s): they are counted again next time.", e)
    return counts


def _cache_file(files):
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(f)) for f in files])
    prints = file_fingerprints([{"file_name": f} for f in files])
    name = hashlib.sha256("\0".join((*prints, str(len(files)))).encode()).hexdigest()[:16]
    return cache_folder(folder) / f"class_counts_{name}.npz"


def _read(cache, images):
    """The counts in a cache file; None where there is none that is whole."""
    try:
        with np.load(cache) as content:
            counts = content["counts"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    whole = counts.shape == (images, LABELS) and counts.dtype == np.int64 and (counts >= 0).all()
    return counts if whole else None


def _count(file):
    try:
        with open_picture(Path(file)) as image:
            if image.mode != "L":
                raise DataError(f"label map {file} is not 8-bit grey but PIL's {image.mode}: a pixel must be its label")
        pixels = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise OSError("it cannot be decoded")
    except (OSError, SyntaxError, ValueError, cv2.error) as e:
        if isinstance(e, DataError):
            raise
        raise DataError(f"cannot read label map {file} ({e}). Replace it, or remove its image from the set.") from e
    return np.bincount(pixels.ravel(), minlength=LABELS).astype(np.int64)


def class_probabilities(counts, temperature):
    """P(c) = softmax((1 - f_c) / T) over the classes that there are (DAFormer, Eq. 8-9).

    Args:
        counts (ndarray): (K,) pixels of each class.
        temperature (float): T, above 0.

    Returns:
        ndarray: (K,) float64; 0 for classes without a pixel.
    """
    counts = np.asarray(counts, np.float64)
    there = counts > 0
    if not there.any():
        return np.zeros(len(counts))
    scores = (1 - counts[there] / counts.sum()) / temperature
    weights = np.exp(scores - scores.max())
    probabilities = np.zeros(len(counts))
    probabilities[there] = weights / weights.sum()
    return probabilities


class RareClassSampler(Sampler):
    """An endless stream of images, each drawn for a class: first the class, then an image with enough of it.

    What it yields says both, see :func:`split_index`. Processes take turns in one stream, as with Detectron2's
    training samplers, and the stream depends on the seed alone.
    """

    def __init__(self, counts, temperature, min_pixels, seed=None):
        """
        Args:
            counts (ndarray): (number of images, K) pixels of each class.
            temperature (float): T of :func:`class_probabilities`.
            min_pixels (int): an image has enough of a class where more of its pixels are of it.
            seed (int): the same in all processes; None = drawn, and shared with them.

        Raises:
            DataError: where no image has enough of any class.
        """
        self.images = len(counts)
        self.seed = comm.shared_random_seed() if seed is None else int(seed)
        enough = counts > min_pixels
        self.images_of = [np.flatnonzero(column) for column in enough.T]
        probabilities = class_probabilities(counts.sum(axis=0), temperature)
        lost = [c for c, images in enumerate(self.images_of) if probabilities[c] and not len(images)]
        if lost:
            logger.warning(
                "No source image has more than %d pixels (DATALOADER.RARE_CLASSES.MIN_PIXELS) of the classes %s: they "
                "are not drawn.", min_pixels, lost,
            )  # fmt: skip
            probabilities[lost] = 0
        if not probabilities.sum():
            raise DataError(
                f"no source image has more than {min_pixels} pixels of any class: lower "
                "DATALOADER.RARE_CLASSES.MIN_PIXELS."
            )
        self.probabilities = probabilities / probabilities.sum()

    def __iter__(self):
        return itertools.islice(self._draws(), comm.get_rank(), None, comm.get_world_size())

    def _draws(self):
        random = np.random.Generator(np.random.PCG64(self.seed))
        cumulated = np.cumsum(self.probabilities)
        last = np.flatnonzero(self.probabilities)[-1]
        while True:
            # rounding may leave the sum a little below 1
            c = min(int(np.searchsorted(cumulated, random.random(), side="right")), int(last))
            images = self.images_of[c]
            yield c * self.images + int(images[random.integers(len(images))])


def split_index(index, images):
    """What a :class:`RareClassSampler` yields -> (index of the image, class that it was drawn for)."""
    return index % images, index // images


class DrawnForClasses(Dataset):
    """Dataset dicts by what a :class:`RareClassSampler` yields: ``"rare_class"`` tells what an image was drawn for."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        image, rare_class = split_index(index, len(self.dataset))
        return {**self.dataset[image], "rare_class": rare_class}


def rare_class_sampler(cfg, dicts):
    """The :class:`RareClassSampler` of a config, which the main process counts the pixels for.

    Labels that are ignored, and those beyond ``MODEL.SEM_SEG_HEAD.NUM_CLASSES``, are no classes.
    """
    counts = comm.all_gather(_counted_by_main(dicts))[0]
    if isinstance(counts, Exception):
        raise counts
    counts = counts[:, : cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES].copy()
    if cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE < counts.shape[1]:
        counts[:, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE] = 0
    keys = cfg.DATALOADER.RARE_CLASSES
    return lambda: RareClassSampler(counts, keys.TEMPERATURE, keys.MIN_PIXELS)


def _counted_by_main(dicts):
    """The counts, or the error for all processes to raise."""
    if not comm.is_main_process():
        return None
    try:
        return count_classes(dicts)
    except Exception as e:
        return e
