"""Leaves out what Detectron2's and torch's own code is warned of, which users of mic_det cannot change.

Each entry names the warning and the module that gives it. Filters come after those of ``-W`` and ``PYTHONWARNINGS``,
which thus show these warnings where they are asked to. All other warnings, of mic_det and of users' code, stay.
"""

import logging
import os
import re
import warnings

WARNINGS = (  # beginning of the message, module that it is given in
    ("`torch.jit.script` is deprecated", "torch.jit._script"),  # while Detectron2 and fvcore are imported
    ("pkg_resources is deprecated as an API", "detectron2.model_zoo.model_zoo"),
    ("torch.meshgrid: in an upcoming release", "torch.functional"),  # Detectron2's anchors
    ("`broadcast_buffers` is deprecated", "detectron2.engine.defaults"),
    ("Creating a tensor from a list of numpy.ndarrays", "detectron2.structures.keypoints"),  # true keypoints
    ("The given NumPy array is not writable", "fvcore.transforms.transform"),  # copied before it is written to
)
LOGGED = (  # logger, beginning of the message
    ("torch.fx._symbolic_trace", "is_fx_tracing will return true"),  # Detectron2's layers
    ("torch.utils.cpp_extension", "No CUDA runtime is found"),  # the description of the machine at a run's start
)


class _Without(logging.Filter):
    def __init__(self, message):
        super().__init__()
        self.message = message

    def filter(self, record):
        return not str(record.msg).startswith(self.message)


def leave_out_known_warnings():
    """Add the filters to this process; worker processes that are spawned import mic_det, and have them too."""
    for message, module in WARNINGS:
        warnings.filterwarnings("ignore", re.escape(message), module=re.escape(module) + r"\Z", append=True)
    if "TORCH_LOGS" in os.environ:  # its user asks for torch's messages
        return
    for name, message in LOGGED:
        logging.getLogger(name).addFilter(_Without(message))


leave_out_known_warnings()
