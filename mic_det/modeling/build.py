"""Models of a config, with errors that say what is wrong with it."""

import os
import traceback

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import nn

from ..errors import ConfigError
from .pixel_labels import zero_without_labels


def build_checked_model(cfg: CfgNode) -> nn.Module:
    """Detectron2's ``build_model``.

    Raises:
        ConfigError: where Detectron2 cannot build a model of these settings.
    """
    try:
        model = build_model(cfg)
    except ConfigError:
        raise
    except (AssertionError, LookupError, TypeError, ValueError, RuntimeError, AttributeError) as e:
        where = traceback.extract_tb(e.__traceback__)[-1]
        raise ConfigError(
            f"no model can be built of these settings ({type(e).__name__}: {' '.join(str(e).split())[:200]}; in "
            f"{where.name}, {os.path.basename(where.filename)}). Compare MODEL with the configs that are shipped."
        ) from e
    if isinstance(getattr(model, "sem_seg_head", None), SemSegFPNHead):  # of a plain model
        model.sem_seg_head.register_forward_hook(zero_without_labels)
    return model
