"""An old name of MIC, for configs and checkpoints that have it."""

import logging

from detectron2.modeling import META_ARCH_REGISTRY

from .mic import MIC


@META_ARCH_REGISTRY.register()
class MICRCNN(MIC):
    """The name that :class:`MIC` had before it also wrapped segmentation models. Old configs keep working."""

    @classmethod
    def from_config(cls, cfg):
        logging.getLogger(__name__).warning('MODEL.META_ARCHITECTURE "MICRCNN" is an old name: use "MIC".')
        return super().from_config(cfg)
