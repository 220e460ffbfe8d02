"""The folder of a miniature city: its files' names, what is complete in it, and whose it is."""

import contextlib
import json
import math
from pathlib import Path

from ...errors import MinicityError
from ...utils.ordinary_files import read_text
from ..datasets.cityscapes import write_json

MINICITY_VERSION = 3  # raise it whenever a scene of the same seed would look, or be labelled, differently
CITIES = {"train": ("altstedt", "brookfield", "carville", "dunmore"), "val": ("eastport", "fairview")}
FOLDERS = ("leftImg8bit", "leftImg8bit_foggy", "gtFine", "disparity", "camera")
MIN_SIZE = (32, 16)  # pixels; nothing can be told apart in smaller pictures


def make_recipe(num_train, num_val, size, betas, seed, workers):
    """What a city is made from, as recorded in ``minicity.json``.

    Raises:
        MinicityError: where an argument is out of range; names it.
    """
    width, height = (int(x) for x in size)
    betas = [float(beta) for beta in betas]
    if min(num_train, num_val) < 0 or num_train + num_val == 0:
        raise MinicityError(f"{num_train} train and {num_val} val images were asked for: at least one is needed.")
    if width < MIN_SIZE[0] or height < MIN_SIZE[1]:
        raise MinicityError(f"a size of {width} x {height} was asked for: at least {MIN_SIZE[0]} x {MIN_SIZE[1]}.")
    if not all(beta >= 0 and math.isfinite(beta) for beta in betas) or len(set(betas)) < len(betas):
        raise MinicityError(f"the fog densities are {betas}: each must be at least 0 per metre, and listed once.")
    if seed < 0:
        raise MinicityError(f"the seed is {seed}: it must be at least 0.")
    if workers is not None and workers < 1:
        raise MinicityError(f"{workers} workers were asked for: at least 1, or none for one process a core.")
    return {"version": MINICITY_VERSION, "seed": int(seed), "size": [width, height], "betas": betas}


def claim(root, recipe, overwrite):
    """Record the recipe in the folder; refuse a folder of another city, or of images that are no such city.

    With ``overwrite``, the city that is there goes first: were its images only replaced one by one, an
    interrupted call would leave a mixture of two cities that the next call takes for complete.

    Raises:
        MinicityError: names the folder and says what to do.
    """
    root = Path(root)
    note = root / "minicity.json"
    try:
        if note.is_file():
            if overwrite:
                _remove_city(root)
            else:
                _check_same(note, recipe)
        elif any(any((root / folder).glob("*")) for folder in FOLDERS):
            raise MinicityError(f"{root} holds images but no minicity.json: choose another folder.")
        elif other := next(_coco_files(root), None):
            raise MinicityError(f"{other} exists, but there is no minicity.json beside it: choose another folder.")
        write_json(recipe, note)
    except OSError as e:
        raise MinicityError(f"cannot write to {root} ({e}): choose another folder.") from e


def _check_same(note, recipe):
    try:
        found = json.loads(read_text(note))
    except ValueError as e:
        raise MinicityError(f"{note} cannot be read ({e}): choose another folder or pass --overwrite.") from e
    if found != recipe:
        raise MinicityError(
            f"{note.parent} holds another city ({found}, asked for {recipe}): "
            "choose another folder or pass --overwrite."
        )


def _remove_city(root):
    """Remove what an earlier call wrote; files of other names stay."""
    for split, cities in CITIES.items():
        for city in cities:
            for folder in FOLDERS:
                place = root / folder / split / city
                for file in place.glob(f"{city}_*"):
                    file.unlink()
                with contextlib.suppress(OSError):  # absent, or there are other files in it
                    place.rmdir()
    for file in list(_coco_files(root)):
        file.unlink()


def _coco_files(root):
    for split in CITIES:
        for pattern in (f"instances_{split}.json", f"instances_foggy_*_{split}.json"):
            yield from (root / "annotations").glob(pattern)


def stem(split, k):
    """``{split}/{city}/{city}_{sequence}_{frame}`` of image k."""
    city = CITIES[split][k % len(CITIES[split])]
    return f"{split}/{city}/{city}_{k:06d}_000019"


def image_files(root, split, k, betas):
    """The files of image k, by what they hold; ``foggy`` maps each beta to its file."""
    root, name = Path(root), stem(split, k)
    files = {"clear": root / "leftImg8bit" / f"{name}_leftImg8bit.png"}
    for kind in ("instanceIds.png", "labelIds.png", "labelTrainIds.png", "polygons.json", "keypoints.json"):
        files[kind.split(".")[0]] = root / "gtFine" / f"{name}_gtFine_{kind}"
    files["disparity"] = root / "disparity" / f"{name}_disparity.png"
    files["camera"] = root / "camera" / f"{name}_camera.json"
    files["foggy"] = {beta: root / "leftImg8bit_foggy" / f"{name}_leftImg8bit_foggy_beta_{beta}.png" for beta in betas}
    return files


def is_complete(files):
    """Whether all files of an image are there; each is written whole or not at all."""
    singles = [file for kind, file in files.items() if kind != "foggy"]
    return all(file.is_file() for file in (*singles, *files["foggy"].values()))
