"""A short training on the miniature city: a detector on clear images, then MIC, and the AP50 of both in fog."""

import os
import time
from pathlib import Path

from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

from ...engine.setup import get_mic_cfg
from ...engine.trainer import MICTrainer

START, MIC = "minicity/source_strong_start.yaml", "minicity/mic_strong.yaml"
MOST = {START: 900, MIC: 450}  # steps of the configs
LEAST, TIMED = 2, 8  # steps of a training; steps that are timed before it
FIRST = 4  # steps before those, which start workers and choose kernels
OVERHEAD = 0.3  # share of the seconds that is not steps: models, evaluations


def train(settings, save):
    """Train as many steps as the seconds allow, half of them for each of the two trainings."""
    os.environ["DETECTRON2_DATASETS"] = str(Path(settings.folder) / "data")
    seconds = min(settings.training_seconds, settings.limit - 15) * (1 - OVERHEAD) / 2
    found, weights, start = {}, "", time.monotonic()
    for name, config in (("source_only", START), ("mic", MIC)):
        folder = Path(settings.folder) / name
        step = _seconds_of_a_step(_config(settings, config, folder, weights, 100))
        steps = max(LEAST, min(MOST[config], int(seconds / step)))
        cfg = _config(settings, config, folder, weights, steps)
        began = time.monotonic()
        trainer = _trainer(cfg)
        trainer.train()
        found[name] = {
            "steps": steps, "seconds": time.monotonic() - began, "step_ms_before": 1000 * step,
            "ap50": {k: float(v) for k, v in _ap50(trainer, cfg).items()},
        }  # fmt: skip
        found["seconds"] = time.monotonic() - start
        save(found)
        weights = str(folder / "model_final.pth")


def _config(settings, config, folder, weights, steps):
    opts = [
        "MODEL.DEVICE", settings.device, "MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(folder), "SOLVER.MAX_ITER", steps,
        "SOLVER.STEPS", (steps * 5 // 6,), "SOLVER.WARMUP_ITERS", max(1, steps // 9), "SOLVER.CHECKPOINT_PERIOD",
        10**6, "TEST.EVAL_PERIOD", 0, "VIS_PERIOD", 0, "DATALOADER.NUM_WORKERS", settings.training_workers,
    ]  # fmt: skip
    cfg = get_mic_cfg(config, [*opts, *settings.training_opts])
    cfg.freeze()
    return cfg


def _trainer(cfg):
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    seed_all_rng(cfg.SEED)
    trainer = MICTrainer(cfg)
    trainer.resume_or_load(resume=False)
    return trainer


def _seconds_of_a_step(cfg):
    """Seconds of a step, from a few steps of a training that is thrown away."""
    trainer = _trainer(cfg)
    with EventStorage():
        for trainer.iter in range(FIRST + TIMED):
            if trainer.iter == FIRST:
                start = time.monotonic()
            trainer.run_step()  # reads its losses, so the device has finished it
    return (time.monotonic() - start) / TIMED


def _ap50(trainer, cfg):
    """By name of the set; Detectron2 leaves out the name where there is one set."""
    results = trainer._last_eval_results
    names = cfg.DATASETS.TEST
    if len(names) == 1:
        results = {names[0]: results}
    return {name: results[name]["bbox"]["AP50"] for name in names}
