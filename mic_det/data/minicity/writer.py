"""Write the miniature city in Cityscapes' layout."""

from pathlib import Path

import cv2
import numpy as np

from ...errors import MinicityError, WorkerError
from ...utils.parallel import run_parallel, write_png
from ..datasets.cityscapes import cityscapes_to_coco, write_json
from ..fog import add_fog, depth_to_distance, encode_disparity
from ..label_maps import train_ids
from .folder import (
    claim,
    image_files,
    is_complete,
    make_recipe,
)
from .keypoints import add_to_categories, read_annotations, write_keypoints
from .scene import render_scene


def make_minicity(
    root, num_train=250, num_val=60, size=(512, 256), betas=(0.02,), seed=0, workers=None, overwrite=False,
    progress=True,
):  # fmt: skip
    """Make the city below ``root``; complete images of an earlier, interrupted call are kept.

    Image k of a split depends on (seed, split, k) alone. Files are Cityscapes': ``leftImg8bit``,
    ``gtFine`` (polygons, instanceIds, labelIds, labelTrainIds), ``disparity``, ``camera``, ``leftImg8bit_foggy``;
    COCO files come beside them: ``annotations/instances_{split}.json`` and
    ``annotations/instances_foggy_{beta}_{split}.json``. Persons and riders have keypoints there, which are also in
    ``gtFine`` (keypoints). A city that an earlier version made without them gets them, and its images stay the same.

    Args:
        root (path), num_train, num_val (int): where, and how many images.
        size ((int, int)): width and height in pixels.
        betas (sequence of float): fog densities in 1/m.
        seed (int), workers (int): None = one process a core.
        overwrite (bool): remove the city that is in the folder and make everything again.
        progress (bool): show a progress bar.

    Returns:
        dict: image and box counts per split, as the COCO files have them.

    Raises:
        MinicityError: where an argument is out of range, something else is in the folder already, or it
            cannot be written.
    """
    recipe = make_recipe(num_train, num_val, size, betas, seed, workers)
    root, size, betas = Path(root), tuple(recipe["size"]), tuple(recipe["betas"])
    numbers = {"train": num_train, "val": num_val}
    claim(root, recipe, overwrite)
    try:
        jobs = [
            (str(root), split, k, size, betas, recipe["seed"])
            for split, number in numbers.items() for k in range(number)
            if not is_complete(image_files(root, split, k, betas))
        ]  # fmt: skip
        run_parallel(_make_image, jobs, workers, "miniature city", progress)
        return {split: _write_coco(root, split, number, betas) for split, number in numbers.items() if number}
    except WorkerError as e:
        raise MinicityError(str(e)) from e
    except (OSError, ValueError) as e:
        raise MinicityError(f"{root} could not be completed ({e}): correct that, then run it again.") from e


def scene_rng(seed, split, k):
    """The generator that image k of a split is made from."""
    return np.random.default_rng([seed, ("train", "val").index(split), k])


def _make_image(job):
    cv2.setNumThreads(1)
    root, split, k, size, betas, seed = job
    rng = scene_rng(seed, split, k)
    scene = render_scene(rng, size)
    camera, files = scene.camera, image_files(root, split, k, betas)
    write_png(files["clear"], scene.image[:, :, ::-1])
    distance = depth_to_distance(scene.depth, camera.f, camera.f, camera.u0, camera.v0)
    for beta, file in files["foggy"].items():
        write_png(file, add_fog(scene.image, distance, beta, scene.airlight)[:, :, ::-1])
    write_png(files["instanceIds"], scene.instance_ids.astype(np.uint16))
    write_png(files["labelIds"], scene.label_ids)
    write_png(files["labelTrainIds"], train_ids(scene.label_ids))
    objects = [{"label": label, "polygon": outline.tolist()} for label, outline in scene.polygons]
    write_json({"imgHeight": size[1], "imgWidth": size[0], "objects": objects}, files["polygons"])
    write_keypoints(scene.keypoints, files["keypoints"])
    disparity = encode_disparity(scene.depth, camera.baseline, camera.f)
    disparity[rng.uniform(size=disparity.shape) < 0.02] = 0  # stereo has holes
    write_png(files["disparity"], disparity)
    write_json(camera.as_cityscapes(), files["camera"])


def _write_coco(root, split, number, betas):
    clear = cityscapes_to_coco(root, split, more=read_annotations)
    if len(clear["images"]) != number:
        raise MinicityError(
            f"{root} has {len(clear['images'])} {split} images, asked for {number}: "
            "choose another folder or pass --overwrite."
        )
    add_to_categories(clear["categories"])
    write_json(clear, root / "annotations" / f"instances_{split}.json")
    for beta in betas:
        foggy = cityscapes_to_coco(
            root, split, "leftImg8bit_foggy", f"leftImg8bit_foggy_beta_{beta}.png", more=read_annotations
        )
        add_to_categories(foggy["categories"])
        write_json(foggy, root / "annotations" / f"instances_foggy_{beta}_{split}.json")
    names = {c["id"]: c["name"] for c in clear["categories"]}
    boxes = dict.fromkeys(names.values(), 0)
    for annotation in clear["annotations"]:
        boxes[names[annotation["category_id"]]] += 1
    return {"images": number, "boxes": boxes}
