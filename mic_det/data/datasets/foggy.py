"""Foggy images from clear ones and their depth: Cityscapes' folders, or plain folders of images and depth maps.

Foggy Cityscapes (Sakaridis, Dai, Van Gool, IJCV 2018) is made in the same way: disparity to distance, invalid pixels
filled along the image's edges, the optical model of :mod:`mic_det.data.fog`. Its authors complete the
depth by their own stereo refinement, so pixels differ from the official files.
"""

import json
from pathlib import Path

import cv2
import numpy as np

from ...errors import FogError
from ...utils.ordinary_files import NotOrdinary, check_ordinary, read_text
from ...utils.parallel import run_parallel, write_png
from ..files import glob_files, list_images
from ..fog import (
    add_fog,
    depth_to_distance,
    disparity_to_depth,
    estimate_airlight,
    fill_invalid,
)

MAX_DEPTH = 2000.0  # metres; where stereo sees no disparity at all


def make_foggy_cityscapes(root, splits, betas, airlight=None, workers=None, overwrite=False, progress=True):
    """Write ``leftImg8bit_foggy/{split}/{city}/{stem}_leftImg8bit_foggy_beta_{beta}.png``.

    Args:
        root (path): folder with ``leftImg8bit``, ``disparity`` and ``camera`` of the splits.
        splits (sequence of str), betas (sequence of str): e.g. ("train", "val") and ("0.02",), beta
            in 1/m as it is to be written in the file names.
        airlight (3 floats): RGB in [0, 255]; None estimates it from each image.
        workers (int): processes; None = one a core.
        overwrite (bool): make images again that are there.

    Returns:
        (int, int): images written, and images that were there.

    Raises:
        FogError: names the folder or file that is missing or broken.
    """
    root, jobs, present = Path(root), [], 0
    for split in splits:
        images = glob_files(root / "leftImg8bit" / split, "*/*_leftImg8bit.png")
        if not images:
            raise FogError(f"no */*_leftImg8bit.png in {root / 'leftImg8bit' / split}: check the folder and the split.")
        for image in images:
            city, stem = image.parent.name, image.name[: -len("_leftImg8bit.png")]
            depth = root / "disparity" / split / city / f"{stem}_disparity.png"
            camera = root / "camera" / split / city / f"{stem}_camera.json"
            for file in (depth, camera):
                if not file.is_file():
                    raise FogError(f"{file} is missing: unpack Cityscapes' {file.parents[2].name} package there.")
            folder = root / "leftImg8bit_foggy" / split / city
            outputs = {float(b): folder / f"{stem}_leftImg8bit_foggy_beta_{b}.png" for b in betas}
            wanted = {b: f for b, f in outputs.items() if overwrite or not f.is_file()}
            present += len(outputs) - len(wanted)
            if wanted:
                jobs.append((image, depth, camera, airlight, wanted))
    run_parallel(_fog_cityscapes_image, jobs, workers, "fog", progress)
    return sum(len(job[-1]) for job in jobs), present


def make_foggy_folder(
    images, depths, output, betas, airlight=None, depth_scale=1.0, focal=None, workers=None, overwrite=False,
    progress=True,
):  # fmt: skip
    """Fog a plain folder of images with a depth map for each: ``output/{name}_foggy_beta_{beta}.png``.

    Args:
        images, depths (path): folders; a depth map has its image's name as ``.png`` (integers) or
            ``.npy`` (numbers), and is 0 or NaN where unknown.
        output (path): where the foggy images go; subfolders are kept.
        betas (sequence of str), airlight, workers, overwrite: see :func:`make_foggy_cityscapes`.
        depth_scale (float): metres per unit of the depth maps.
        focal (float): focal length in pixels, where the maps hold depth along the optical axis; None
            where they hold the distance itself.

    Returns:
        (int, int): images written, and images that were there.

    Raises:
        FogError: names the folder or file that is missing or broken.
    """
    images, depths, output, jobs, present = Path(images), Path(depths), Path(output), [], 0
    for read in (images, depths):
        if read.resolve() in (output.resolve(), *output.resolve().parents):
            raise FogError(f"{output} is in {read}: foggy images would be taken for clear ones. Name another --output.")
    files = list_images(images) if images.is_dir() else []
    if not files:
        raise FogError(f"no images in {images}.")
    for image in files:
        relative = image.relative_to(images)
        found = [d for d in (depths / relative.with_suffix(s) for s in (".npy", ".png")) if d.is_file()]
        if not found:
            raise FogError(f"{depths / relative.with_suffix('.png')} (or .npy) is missing: images need depth maps.")
        outputs = {float(b): output / relative.with_name(f"{image.stem}_foggy_beta_{b}.png") for b in betas}
        wanted = {b: f for b, f in outputs.items() if overwrite or not f.is_file()}
        present += len(outputs) - len(wanted)
        if wanted:
            jobs.append((image, found[0], depth_scale, focal, airlight, wanted))
    run_parallel(_fog_plain_image, jobs, workers, "fog", progress)
    return sum(len(job[-1]) for job in jobs), present


def _fog_cityscapes_image(job):
    image_file, disparity_file, camera_file, airlight, outputs = job
    cv2.setNumThreads(1)
    image, disparity = _read(image_file, cv2.IMREAD_COLOR), _read(disparity_file, cv2.IMREAD_UNCHANGED)
    if disparity.dtype != np.uint16 or disparity.shape != image.shape[:2]:
        raise FogError(
            f"{disparity_file} is {disparity.dtype} of the shape {disparity.shape}: it must be 16 bit, one channel, of "
            f"its image's size {image.shape[:2]}."
        )
    try:
        camera = json.loads(read_text(camera_file))
        baseline = float(camera["extrinsic"]["baseline"])
        fx, fy, u0, v0 = (float(camera["intrinsic"][k]) for k in ("fx", "fy", "u0", "v0"))
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise FogError(f"{camera_file} is not a readable camera file ({type(e).__name__}: {e}).") from e
    # disparities are filled, not depths: stereo's errors are alike everywhere in the former
    pixels = (disparity.astype(np.float64) - 1) / 256
    pixels = fill_invalid(pixels, disparity > 0, image)
    if np.isnan(pixels).any():
        raise FogError(f"{disparity_file} has no valid pixel. Unpack it again.")
    encoded = np.where(disparity > 0, disparity, np.rint(pixels * 256 + 1)).astype(np.uint16)
    depth = np.minimum(disparity_to_depth(encoded, baseline, fx), MAX_DEPTH)
    _write(image, depth_to_distance(depth, fx, fy, u0, v0), airlight, outputs)


def _fog_plain_image(job):
    image_file, depth_file, depth_scale, focal, airlight, outputs = job
    cv2.setNumThreads(1)
    image = _read(image_file, cv2.IMREAD_COLOR)
    try:
        npy = depth_file.suffix == ".npy"
        check_ordinary(depth_file)
        depth = np.load(depth_file, allow_pickle=False) if npy else _read(depth_file, cv2.IMREAD_UNCHANGED)
    except (OSError, ValueError, EOFError) as e:
        raise FogError(f"{depth_file} cannot be read ({e}).") from e
    if depth.shape != image.shape[:2] or not np.issubdtype(depth.dtype, np.number):
        raise FogError(f"{depth_file} is {depth.shape}, its image {image.shape[:2]}: both must be of one size.")
    depth = depth.astype(np.float64) * depth_scale
    valid = np.isfinite(depth) & (depth > 0)
    if not valid.any():
        raise FogError(f"{depth_file} has no valid pixel (greater than 0).")
    depth = fill_invalid(depth, valid, image)
    if focal:
        height, width = depth.shape
        depth = depth_to_distance(depth, focal, focal, (width - 1) / 2, (height - 1) / 2)
    _write(image, depth, airlight, outputs)


def _read(file, flags):
    try:
        check_ordinary(file)
        image = cv2.imdecode(np.fromfile(file, np.uint8), flags)  # cv2.imread takes no non-ASCII path everywhere
    except NotOrdinary as e:
        raise FogError(f"{e}. Remove it.") from e
    except (OSError, cv2.error):
        image = None
    if image is None:
        raise FogError(f"{file} cannot be read as an image. Unpack it again.")
    return image


def _write(image, distance, airlight, outputs):
    light = estimate_airlight(image) if airlight is None else np.asarray(airlight, np.float64)[::-1]  # BGR
    for beta, file in outputs.items():
        try:
            write_png(file, add_fog(image, distance, beta, light))
        except OSError as e:
            raise FogError(f"cannot write {file} ({e}).") from e
