"""Where the images and labels of a labelled folder are: shared by all formats."""

import itertools
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import DataError
from ..files import list_images

SPLITS = {"train": ("train",), "test": ("val", "valid", "test")}  # role -> names of its split


@dataclass
class Labelled:
    """A labelled folder. COCO has ``json`` and ``images``; the others have ``pairs`` of folders, images and labels."""

    kind: str  # "COCO", "Pascal VOC" or "YOLO"
    path: Path
    json: Path = None
    images: Path = None
    pairs: list = field(default_factory=list)
    yaml: Path = None  # where the class names are
    listed: set = None  # images of the split, where a text file lists them
    left_out: list = field(default_factory=list)  # folders of other splits

    def describe(self):
        """One line for the plan."""
        where = self.json or self.yaml or self.path
        return f"{self.kind}, {where}"


def of_role(places, path, role):
    """Those of some paths below ``path`` that belong to a role by the names of their folders or of the file.

    All of them where the names tell of no splits: "train" alone may be anything, such as a class.
    """
    words = {p: words_of(p.relative_to(path)) for p in places}
    if sum(any(split in w for w in words.values()) for split in itertools.chain(*SPLITS.values())) > 1:
        for split in SPLITS[role]:
            if chosen := [p for p in places if split in words[p]]:
                return chosen
    return list(places)


def words_of(path):
    """``labels/instances_val2017.json`` -> {"labels", "instances", "val", "2017", "json"}."""
    return set(re.findall(r"[^\W\d_]+|\d+", str(path).lower()))


def image_folder(labels, candidates, argument):
    """The folder of images that labels are of: folders often hold files of the same names, one for each split.

    Args:
        labels (path): a COCO file, or a folder of label files.
        candidates (dict[path, int]): folder of images -> how many of the labels' images are in it.
        argument (str): for messages.

    Returns:
        path: of those with any, the one whose path has most words of the labels' path, then the one with most images.
        Words of a folder above all of them do not count.

    Raises:
        DataError: where two are as likely.
    """
    candidates = {p: n for p, n in candidates.items() if n}
    above = (os.path.commonpath(candidates) if candidates else "") or os.curdir
    of_labels = words_of(os.path.relpath(labels, above))
    words = {p: of_labels & words_of(os.path.relpath(p, above)) for p in candidates}
    ranked = sorted(((len(words[p]), n, p) for p, n in candidates.items()), key=lambda x: x[:2])
    if len(ranked) > 1 and ranked[-1][:2] == ranked[-2][:2]:
        raise DataError(
            f"{argument}: the images of {labels} may be those in {ranked[-2][2]} or in {ranked[-1][2]}: both have "
            "files of the same names. Name a folder that has only one of them."
        )
    return ranked[-1][2] if ranked else None


def image_folders(path):
    """Folder -> names of its images without their endings."""
    found = {}
    for file in list_images(path):
        found.setdefault(file.parent, set()).add(file.stem)
    return found
