"""The running number of objects that RetinaNet and FCOS divide their losses by.

Detectron2 keeps it as a plain number of the module, which is in no state dict.
"""

import contextlib

from detectron2.modeling.meta_arch.dense_detector import DenseDetector

NAMES = ("loss_normalizer", "masked_loss_normalizer")  # of labelled batches, and of single masked images


@contextlib.contextmanager
def of_masked_images(detector):
    """In this block, losses are divided by the running number of masked images, which go through one by one.

    Their numbers are not those of a labelled batch: in one mean, the weight of L_S would depend on how many
    pseudo-boxes there are.
    """
    _swap(detector)
    try:
        yield
    finally:
        _swap(detector)


def _swap(detector):
    values = [detector.__dict__.pop(name, None) for name in NAMES]
    detector.__dict__.update({name: v for name, v in zip(NAMES, values[::-1]) if v is not None})


def get_normalizers(model):
    """The numbers of all such detectors in a model: a list of dicts, in the order of its modules."""
    return [
        {name: m.__dict__[name] for name in NAMES if name in m.__dict__}
        for m in model.modules()
        if isinstance(m, DenseDetector)
    ]


def set_normalizers(model, values):
    """Put back what :func:`get_normalizers` returned."""
    for m, numbers in zip([m for m in model.modules() if isinstance(m, DenseDetector)], values):
        m.__dict__.update(numbers)
