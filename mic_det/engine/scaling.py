"""Batch sizes and schedules for a number of processes."""

from detectron2.engine import DefaultTrainer

from ..errors import ConfigError

# of each kind of set
BATCH_KEYS = {
    "TRAIN": "IMS_PER_BATCH", "TARGET": "IMS_PER_BATCH_TARGET", "TARGET_LABELLED": "IMS_PER_BATCH_TARGET_LABELLED",
}  # fmt: skip


def scale_to_world_size(cfg, num_processes):
    """The config that this number of processes trains by.

    With ``SOLVER.REFERENCE_WORLD_SIZE`` it is scaled as ``DefaultTrainer.auto_scale_workers`` does, and so are
    mic_det's own keys: target images a step in proportion, numbers of steps inversely. The teacher's ALPHA stays.

    Args:
        cfg (CfgNode): is not changed.
        num_processes (int): over all machines.

    Raises:
        ConfigError: where a batch size cannot be divided; names the key and the numbers.
    """
    solver, reference = cfg.SOLVER, cfg.SOLVER.REFERENCE_WORLD_SIZE
    keys = [key for sets, key in BATCH_KEYS.items() if cfg.DATASETS[sets]]
    if reference and reference != num_processes:
        for key in keys:
            if solver[key] % reference:
                raise ConfigError(
                    f"SOLVER.{key} is {solver[key]}, which SOLVER.REFERENCE_WORLD_SIZE {reference} does not divide."
                )
        cfg = _scaled(cfg, num_processes)
    for key in keys:
        if cfg.SOLVER[key] % num_processes:
            raise ConfigError(
                f"SOLVER.{key} is {cfg.SOLVER[key]}, but there are {num_processes} processes: use a multiple of "
                f"{num_processes}, or scale the config with SOLVER.REFERENCE_WORLD_SIZE (the number it was made for)."
            )
    return cfg


def _scaled(cfg, num_processes):
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    frozen, unscaled = cfg.is_frozen(), cfg.clone()
    unscaled.defrost()
    if not cfg.DATASETS.TRAIN:  # no source image is used, and Detectron2 refuses a number that it cannot divide
        unscaled.SOLVER.IMS_PER_BATCH = reference
    scaled = DefaultTrainer.auto_scale_workers(unscaled, num_processes)  # a copy
    scaled.defrost()
    for sets in ("TARGET", "TARGET_LABELLED"):
        key = BATCH_KEYS[sets]
        scaled.SOLVER[key] = cfg.SOLVER[key] * num_processes // reference
    mic = scaled.MODEL.MIC
    nodes = ((mic, "BURN_IN_STEPS"), (mic.CONSISTENCY, "RAMP_UP_STEPS"), (mic.ALIGNMENT, "RAMP_STEPS"))
    for node, key in nodes:
        if node[key]:
            node[key] = max(1, round(node[key] * reference / num_processes))
    if frozen:
        scaled.freeze()
    return scaled
