"""Short texts that change when data change, cheap enough for sets of 100,000 images."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

from detectron2.data import MetadataCatalog

CHUNK = 2**20  # bytes
FILES_A_JOB = 500  # on network disks, waiting for the answer is what takes time


def annotation_fingerprint(names, dicts):
    """Of the content of annotation files; of the annotations themselves where a set has no file.

    Args:
        names (sequence of str): registered sets.
        dicts (list[dict]): Detectron2's dicts of all of them.
    """
    files = [MetadataCatalog.get(name).get("json_file") for name in names]
    digest = hashlib.sha256()
    if all(f and os.path.isfile(f) for f in files):
        for file in files:
            digest.update(_file_digest(file))
    else:
        for x in dicts:
            digest.update(repr(x.get("annotations", x.get("segments_info"))).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def labeller_fingerprint(dicts):
    """Of the boxes of another labeller, as dataset dicts have them."""
    digest = hashlib.sha256()
    for x in dicts:
        digest.update(repr(x.get("labeller")).encode())
    return digest.hexdigest()[:16]


def _file_digest(file):
    digest = hashlib.sha256()
    with open(file, "rb") as f:
        while content := f.read(CHUNK):
            digest.update(content)
    return digest.digest()


def file_fingerprints(dicts):
    """Of all images and label maps: (names, sizes and order; times of the last change).

    Names are relative to the folder that all are in, so that a set may be moved.
    """
    files = [x[key] for x in dicts for key in ("file_name", "sem_seg_file_name", "pan_seg_file_name") if x.get(key)]
    root = os.path.commonpath(list({os.path.dirname(os.path.abspath(f)) for f in files})) if files else ""
    jobs = [files[i : i + FILES_A_JOB] for i in range(0, len(files), FILES_A_JOB)]
    names, times = hashlib.sha256(), hashlib.sha256()
    with ThreadPoolExecutor(min(16, max(len(jobs), 1))) as pool:
        for job, found in zip(jobs, pool.map(_sizes_and_times, jobs)):
            for file, (size, time) in zip(job, found):
                name = os.path.abspath(file)[len(root) :]
                names.update(f"{name}\0{size}\0".encode("utf-8", "surrogatepass"))
                times.update(f"{time}\0".encode())
    return names.hexdigest()[:16], times.hexdigest()[:16]


def _sizes_and_times(files):
    found = []
    for file in files:
        try:
            info = os.stat(file)
            found.append((info.st_size, info.st_mtime_ns))
        except OSError:  # a missing image is named when its turn comes
            found.append((-1, -1))
    return found
