"""The config keys that mic_det adds to Detectron2's, their checks, and what a config says about its model."""

from detectron2.config import CfgNode

from ..errors import ConfigError
from .detectron2_keys import check_detectron2_keys
from .keys import KEYS
from .loss_keys import ALIGNED_REGIONS, QUALITY_MODES
from .models import is_mic, student_architecture
from .node import MICCfgNode
from .renamed import current_settings
from .together import validate_mic_config
from .tree import add_keys, flat_keys, value_of
from .yaml_files import check_config_file, compose_bounded

__all__ = [
    "ALIGNED_REGIONS", "QUALITY_MODES", "ConfigError", "add_mic_config", "check_config_file", "check_detectron2_keys",
    "compose_bounded", "current_settings", "flat_keys", "is_mic",
    "student_architecture", "validate_mic_config", "value_of",
]  # fmt: skip


def add_mic_config(cfg: CfgNode) -> None:
    """Add mic_det's keys to a Detectron2 config, in place. Configs that are merged into it may use their old names.

    Args:
        cfg (CfgNode): usually the result of ``detectron2.config.get_cfg()``.
    """
    add_keys(cfg, KEYS.values())
    if type(cfg) is CfgNode:  # a user's subclass keeps its own merges
        object.__setattr__(cfg, "__class__", MICCfgNode)  # yacs treats any other assignment as a key
