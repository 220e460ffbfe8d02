"""What the student sees in one training step: named views of the images, and their features.

The images of all views are one padded batch, view after view, so that the backbone sees them in one pass. Row numbers
of that batch appear in this file and nowhere else.
"""

from dataclasses import dataclass
from typing import Optional

import torch
from detectron2.structures import ImageList

from .regions import Regions

# The views that there can be, in the order of their rows in the batch.
VIEW_NAMES = ("source", "labelled_target", "target", "masked_target", "masked_source", "mixed_target")


@dataclass
class View:
    """N images of a step as the student sees them.

    ``images`` is their ``ImageList``, ``features`` the backbone's maps (N, C, H, W) by name. ``regions`` are those that
    a loss has sampled in these images, for the terms that share them.
    """

    images: ImageList
    features: dict
    regions: Optional[Regions] = None


@dataclass
class Part:
    """Terms that go through the student together, and the names of the views that they need."""

    terms: list
    names: tuple


class Views:
    """The named views of one step; their features are there after :meth:`run`."""

    def __init__(self, images, counts):
        """
        Args:
            images (ImageList): the images of all views, view after view.
            counts (dict[str, int]): the number of images of each view, in that order.
        """
        self.images = images
        self._spans, self._views = {}, {}
        start = 0
        for name, count in counts.items():
            if count:
                self._spans[name] = (start, start + count)
            start += count

    def __contains__(self, name):
        return name in self._spans

    def images_of(self, *names):
        """The images of several views, of those that have some (ImageList, whose tensor is a view where it can be)."""
        return self._images([x for x in self._spans if x in names])

    def parts(self, wanted, merged=True):
        """Which terms go through the student together.

        Args:
            wanted (list[(term, names)]): the views that each term needs. Those without images do not count, and a
                term without any is left out.
            merged (bool): one part for all terms; else one for each group of terms that shares views.

        Returns:
            list[Part]: in the order of the views.
        """
        groups = []  # (indices of terms, names) of groups that share no view
        for i, (_, names) in enumerate(wanted):
            indices, names = {i}, {x for x in names if x in self._spans}
            if not names:
                continue
            for group in [g for g in groups if merged or g[1] & names]:
                groups.remove(group)
                indices, names = indices | group[0], names | group[1]
            groups.append((indices, names))
        parts = [
            Part([wanted[i][0] for i in sorted(indices)], tuple(x for x in self._spans if x in names))
            for indices, names in groups
        ]
        return sorted(parts, key=lambda part: self._spans[part.names[0]])

    def run(self, backbone, names, masked_apart=False):
        """Compute the features of some views in one pass; without a backbone there are none.

        With ``masked_apart``, masked views have a pass of their own: their features do not depend on those of whole
        images through BatchNorm, nor the other way round.
        """
        passes = [names]
        if masked_apart:
            masked = [name for name in names if name.startswith("masked_")]
            passes = [x for x in ([name for name in names if name not in masked], masked) if x]
        features = {}
        if backbone is not None:
            outputs = [backbone(_rows(self.images.tensor, self._ranges(x))) for x in passes]
            features = {k: torch.cat([x[k] for x in outputs]) if outputs[1:] else v for k, v in outputs[0].items()}
        sizes = [stop - start for start, stop in map(self._spans.get, names)]
        # The gradients of the pieces of one split are put together in one go. Each slice of a tensor would have a
        # gradient of the whole tensor's size, mostly zeros.
        split = {k: v.split(sizes) for k, v in features.items()} if len(names) > 1 else None
        for i, name in enumerate(names):
            own = {k: v[i] for k, v in split.items()} if split else features
            self._views[name] = View(self._images((name,)), own)
        self._features, self._part = features, tuple(names)

    def forget(self):
        """Free what the last :meth:`run` computed."""
        self._views, self._features = {}, None

    def __getitem__(self, names):
        """The View of one name, or the View of the images of several names of one part, in the order of the batch.

        Names of views without images are left out; at least one must have some.
        """
        if isinstance(names, str):
            return self._views[names]
        names = [x for x in self._part if x in names]
        if len(names) == 1:
            return self._views[names[0]]
        offsets, start = {}, 0
        for name in self._part:
            first, last = self._spans[name]
            offsets[name] = (start, start + last - first)
            start = offsets[name][1]
        ranges = _joined([offsets[x] for x in names])
        return View(self._images(names), {k: _rows(v, ranges) for k, v in self._features.items()})

    def _ranges(self, names):
        return _joined([self._spans[x] for x in names])

    def _images(self, names):
        ranges = self._ranges(names)
        sizes = [size for start, stop in ranges for size in self.images.image_sizes[start:stop]]
        return ImageList(_rows(self.images.tensor, ranges), sizes)


def _joined(ranges):
    """Ranges (start, stop) in ascending order, with those that touch made one."""
    joined = []
    for start, stop in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined


def _rows(tensor, ranges):
    pieces = [tensor[start:stop] for start, stop in ranges or [(0, 0)]]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
