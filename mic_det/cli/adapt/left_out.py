"""Target images that are not trained on: those that cannot be used, and those that are test images."""

import math

from ...data.audit import copies_of_test_images
from ...errors import DataError

MOST = 0.1  # share of the target's images that may be unusable, beside a single one
NAMED = 8  # images that are listed


def images_to_leave_out(reports, num_images):
    """
    Args:
        reports (list[SetReport]): of :func:`~mic_det.data.audit.check_config_datasets`.
        num_images (int): images of the target.

    Returns:
        (set[str], list[str]): the files, and lines that report them. Unusable images are not among them where there are
        too many: they stay problems of the set.

    Raises:
        DataError: where no image would be left.
    """
    unusable = {file: text for r in reports if r.role == "TARGET" for file, text in r.unusable.items()}
    if len(unusable) > max(1, math.ceil(MOST * num_images)) or len(unusable) == num_images:
        unusable = {}
    tested = copies_of_test_images(reports, "TARGET")
    if tested and len(tested) + len(unusable) >= num_images:
        raise DataError(
            f"all {len(tested)} usable images of TARGET are test images, and test images are never trained on: name a "
            "TARGET with other images, a --test with fewer of them, or no --test."
        )
    lines = []
    if unusable:
        lines.append(f"warning: {len(unusable)} of {num_images} images of TARGET cannot be used, and are left out:")
        lines += _listed(list(unusable.values()))
    if tested:
        lines.append(
            f"warning: {len(tested)} of {num_images} images of TARGET are test images. They are left out of the "
            "training, as the AP on images that a model has seen is too high:"
        )
        lines += _listed([f"{file} (equals {image})" for file, (_, image, _) in sorted(tested.items())])
    return {*unusable, *tested}, lines


def _listed(entries):
    more = len(entries) - NAMED
    return [f"  {text}" for text in [*entries[:NAMED], *([f"and {more} more"] if more > 0 else [])]]
