"""Training batches of source and target images."""

from detectron2.data import build_detection_train_loader, get_detection_dataset_dicts

from .mapper import DomainMapper


class TwoDomainLoader:
    """Endless batches: one of the source loader followed by one of the target loader, if there is one."""

    def __init__(self, source, target=None):
        self.source, self.target = source, target

    def __iter__(self):
        if self.target is None:
            yield from self.source
        else:
            for source, target in zip(self.source, self.target):
                yield source + target


def build_mic_train_loader(cfg):
    """Detectron2's training loader on ``DATASETS.TRAIN``, joined by one on ``DATASETS.TARGET``.

    Returns:
        iterable[list[dict]]: each batch has ``SOLVER.IMS_PER_BATCH`` source dicts, then
        ``SOLVER.IMS_PER_BATCH_TARGET`` target dicts (none where ``DATASETS.TARGET`` is empty),
        divided by the number of processes; each dict has ``"domain"``.
    """
    source = build_detection_train_loader(cfg, mapper=DomainMapper(cfg, True, "source"))
    if not cfg.DATASETS.TARGET:
        return TwoDomainLoader(source)
    dicts = get_detection_dataset_dicts(list(cfg.DATASETS.TARGET), filter_empty=False, check_consistency=False)
    target = build_detection_train_loader(
        dataset=dicts,
        mapper=DomainMapper(cfg, True, "target"),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH_TARGET,
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    return TwoDomainLoader(source, target)
