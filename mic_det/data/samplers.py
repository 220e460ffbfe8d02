"""Which images are in which batch, fixed by a seed alone, so that a training can resume anywhere in the stream."""

import itertools

from torch.utils.data import Dataset, Sampler

from ..utils.ordinary_files import open_picture
from ..utils.random_state import seeded
from .pixels import upright_size


class BatchPlan(Sampler):
    """The batches that one process takes from Detectron2's endless training samplers, by index.

    Images that are wider than tall and others are not mixed where ``groups`` tells them apart: Detectron2's
    aspect-ratio grouping, without an image being decoded. The plan depends on the sampler and the batch size
    alone, neither on worker processes nor on where it starts: batch k is the same batch in every life of a run.
    """

    def __init__(self, sampler, batch_size, groups=None, start=0):
        """
        Args:
            sampler (iterable[int]): endless, and the same each time it is iterated.
            batch_size (int): images a batch in this process.
            groups (callable): index -> group; None = all images are alike.
            start (int): batches that were taken before. They are gone through again, images of
                half-filled groups included, at about a million images a second.
        """
        self.sampler, self.batch_size, self.groups, self.start = sampler, batch_size, groups, start

    def __iter__(self):
        """Lists of ``(position in the sampler's stream, index of the image)``."""
        return itertools.islice(self._batches(), self.start, None)

    def _batches(self):
        waiting = {}
        for position, index in enumerate(self.sampler):
            batch = waiting.setdefault(self.groups and self.groups(index), [])
            batch.append((position, index))
            if len(batch) == self.batch_size:
                yield batch[:]
                del batch[:]


class AspectRatios:
    """Index of an image -> 0 where it is wider than tall, else 1, as Detectron2 groups them."""

    def __init__(self, dicts):
        """
        Args:
            dicts (list[dict]): Detectron2's. Where ``"width"`` and ``"height"`` are missing, the head of the image
                file tells, and is read when the image is first asked for.
        """
        sizes = [(d.get("width"), d.get("height")) for d in dicts]
        self.groups = [None if None in wh else int(wh[0] <= wh[1]) for wh in sizes]
        self.files = {i: dicts[i]["file_name"] for i, group in enumerate(self.groups) if group is None}

    def __call__(self, index):
        index %= len(self.groups)  # a rare class sampler counts the images again for each class
        if self.groups[index] is None:
            width, height = size_in_file(self.files.pop(index))
            self.groups[index] = int(width <= height)
        return self.groups[index]


def size_in_file(file):
    """Width and height in pixels as Detectron2 will decode the file; (0, 0) where that will fail."""
    try:
        with open_picture(file) as image:
            return upright_size(image)
    except (OSError, SyntaxError, ValueError):  # the mapper tells what is wrong when the image's turn comes
        return 0, 0


class SeededItems(Dataset):
    """Mapped images whose random changes depend on the seed and the place in the stream alone.

    Flips and crops are thus the same whichever process makes them, and whatever was drawn before.
    """

    def __init__(self, dataset, mapper, seed, rank=0, world_size=1):
        """
        Args:
            dataset (sequence): of dataset dicts.
            mapper (callable): dataset dict -> what the model takes.
            seed (sequence of int): of the stream.
            rank, world_size (int): processes take turns in the stream.
        """
        self.dataset, self.mapper, self.seed = dataset, mapper, tuple(seed)
        self.rank, self.world_size = rank, world_size

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, place):
        """``place``: (position in this process's part of the stream, index of the image)."""
        position, index = place
        with seeded(*self.seed, position * self.world_size + self.rank):
            return self.mapper(self.dataset[index])
