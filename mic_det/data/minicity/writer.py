"""Write the miniature city in Cityscapes' layout."""

import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ..cityscapes import cityscapes_to_coco, write_json
from ..fog import add_fog, depth_to_distance, encode_disparity
from .scene import render_scene

MINICITY_VERSION = 1  # raise it whenever a scene of the same seed would look different
CITIES = {"train": ("altstedt", "brookfield", "carville", "dunmore"), "val": ("eastport", "fairview")}


class MinicityError(RuntimeError):
    """The city cannot be made as asked; the message says what to do."""


def make_minicity(
    root, num_train=250, num_val=60, size=(512, 256), betas=(0.02,), seed=0, workers=None, overwrite=False,
    progress=True,
):  # fmt: skip
    """Make the city below ``root``; complete images of an earlier, interrupted call are kept.

    Image k of a split depends on (seed, split, k) alone. Files are Cityscapes': ``leftImg8bit``,
    ``gtFine`` (polygons, instanceIds, labelIds), ``disparity``, ``camera``, ``leftImg8bit_foggy``;
    COCO files come beside them: ``annotations/instances_{split}.json`` and
    ``annotations/instances_foggy_{beta}_{split}.json``.

    Args:
        root (path), num_train, num_val (int): where, and how many images.
        size ((int, int)): width and height in pixels.
        betas (sequence of float): fog densities in 1/m.
        seed (int), workers (int): None = one process a core.
        overwrite (bool): make everything again.
        progress (bool): show a progress bar.

    Returns:
        dict: image and box counts per split, as the COCO files have them.

    Raises:
        MinicityError: where another city is in the folder already, or it cannot be written.
    """
    root = Path(root)
    recipe = {"version": MINICITY_VERSION, "seed": seed, "size": list(size), "betas": [float(b) for b in betas]}
    numbers = {"train": num_train, "val": num_val}
    _claim(root, recipe, overwrite)
    jobs = [
        (str(root), split, k, tuple(size), tuple(betas), seed)
        for split, number in numbers.items() for k in range(number)
        if overwrite or not _done(root, split, k).is_file()
    ]  # fmt: skip
    _run(jobs, workers, progress)
    summary = {}
    for split, number in numbers.items():
        if number:
            summary[split] = _write_coco(root, split, number, betas)
    return summary


def _claim(root, recipe, overwrite):
    """Record the recipe in the folder, or refuse a folder with another one."""
    note = root / "minicity.json"
    try:
        if note.is_file() and not overwrite:
            found = json.loads(note.read_text(encoding="utf-8"))
            if found != recipe:
                raise MinicityError(
                    f"{root} holds another city ({found}, asked for {recipe}): "
                    "choose another folder or pass --overwrite."
                )
        write_json(recipe, note)
    except OSError as e:
        raise MinicityError(f"cannot write to {root} ({e}): choose another folder.") from e


def _run(jobs, workers, progress):
    workers = min(workers or os.cpu_count() or 1, max(len(jobs), 1))
    bar = tqdm(total=len(jobs), desc="miniature city", unit="image", disable=not progress)
    if workers == 1:
        for job in jobs:
            _make_image(job)
            bar.update()
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for _ in pool.map(_make_image, jobs, chunksize=4):
                bar.update()
    bar.close()


def stem(split, k):
    """``{split}/{city}/{city}_{sequence}_{frame}`` of image k."""
    city = CITIES[split][k % len(CITIES[split])]
    return f"{split}/{city}/{city}_{k:06d}_000019"


def _done(root, split, k):
    """The file that is written last."""
    return root / "camera" / f"{stem(split, k)}_camera.json"


def scene_rng(seed, split, k):
    """The generator that image k of a split is made from."""
    return np.random.default_rng([seed, ("train", "val").index(split), k])


def _make_image(job):
    cv2.setNumThreads(1)
    root, split, k, size, betas, seed = job
    rng = scene_rng(seed, split, k)
    scene = render_scene(rng, size)
    camera, root, name = scene.camera, Path(root), stem(split, k)
    _write_png(root / "leftImg8bit" / f"{name}_leftImg8bit.png", scene.image[:, :, ::-1])
    distance = depth_to_distance(scene.depth, camera.f, camera.f, camera.u0, camera.v0)
    for beta in betas:
        foggy = add_fog(scene.image, distance, beta, scene.airlight)
        _write_png(root / "leftImg8bit_foggy" / f"{name}_leftImg8bit_foggy_beta_{beta}.png", foggy[:, :, ::-1])
    _write_png(root / "gtFine" / f"{name}_gtFine_instanceIds.png", scene.instance_ids.astype(np.uint16))
    _write_png(root / "gtFine" / f"{name}_gtFine_labelIds.png", scene.label_ids)
    objects = [{"label": label, "polygon": outline.tolist()} for label, outline in scene.polygons]
    polygons = {"imgHeight": size[1], "imgWidth": size[0], "objects": objects}
    write_json(polygons, root / "gtFine" / f"{name}_gtFine_polygons.json")
    disparity = encode_disparity(scene.depth, camera.baseline, camera.f)
    disparity[rng.uniform(size=disparity.shape) < 0.02] = 0  # stereo has holes
    _write_png(root / "disparity" / f"{name}_disparity.png", disparity)
    write_json(camera.as_cityscapes(), _done(root, split, k))


def _write_png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(".png", array)
    if not ok:
        raise MinicityError(f"cannot encode {path}")
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data.tobytes())
    os.replace(temporary, path)


def _write_coco(root, split, number, betas):
    clear = cityscapes_to_coco(root, split)
    if len(clear["images"]) != number:
        raise MinicityError(
            f"{root} has {len(clear['images'])} {split} images, asked for {number}: choose another folder."
        )
    write_json(clear, root / "annotations" / f"instances_{split}.json")
    for beta in betas:
        foggy = cityscapes_to_coco(root, split, "leftImg8bit_foggy", f"leftImg8bit_foggy_beta_{beta}.png")
        write_json(foggy, root / "annotations" / f"instances_foggy_{beta}_{split}.json")
    names = {c["id"]: c["name"] for c in clear["categories"]}
    boxes = dict.fromkeys(names.values(), 0)
    for annotation in clear["annotations"]:
        boxes[names[annotation["category_id"]]] += 1
    return {"images": number, "boxes": boxes}
