"""Detectron2's config with merges that also accept old names of keys."""

import io

from detectron2.config import CfgNode

from .renamed import current_pairs, current_tree, warn_of_old_names
from .yaml_files import with_current_names


class MICCfgNode(CfgNode):
    """The root of a config with mic_det's keys.

    Merged files, configs and lists may use the old names of :data:`~mic_det.config.renamed.RENAMED`. One warning for
    each of them shows the current names. The nodes below the root are Detectron2's own.

    Raises (every merge):
        ConfigError: where a key is set by its old name and by its current one.
    """

    @classmethod
    def _open_cfg(cls, filename):
        with super()._open_cfg(filename) as f:
            text, renamed = with_current_names(f.read(), filename)
        warn_of_old_names(filename, renamed)
        file = io.StringIO(text)
        file.name = filename  # YAML errors show it
        return file

    def merge_from_other_cfg(self, cfg_other):
        tree, renamed = current_tree(cfg_other)
        warn_of_old_names("The merged config", renamed)
        super().merge_from_other_cfg(CfgNode(tree) if renamed else cfg_other)

    def merge_from_list(self, cfg_list):
        pairs, renamed = current_pairs(cfg_list)
        warn_of_old_names("The list of KEY VALUE pairs", renamed)
        super().merge_from_list(pairs)

    @classmethod
    def _decode_cfg_value(cls, value):
        if not isinstance(value, dict):
            value = super()._decode_cfg_value(value)  # a mapping of the command line is a text
        return CfgNode(value) if isinstance(value, dict) else value
