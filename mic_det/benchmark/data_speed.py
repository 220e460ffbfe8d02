"""Images per second of the training loader alone and of an evaluation."""

import contextlib
import io
import itertools
import time

import torch
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.evaluation import DatasetEvaluators

from ..data.loader import build_mic_train_loader
from ..data.mapper import DomainMapper
from ..engine.trainer import MICTrainer
from .timing import synchronize


def loader_speed(cfg, batches=20, warmup=3):
    """Images per second of the config's training loader, with nothing else to do."""
    loader = iter(build_mic_train_loader(cfg))
    for _ in itertools.islice(loader, warmup):
        pass
    start, images = time.perf_counter(), 0
    for batch in itertools.islice(loader, batches):
        images += len(batch)
    return images / (time.perf_counter() - start)


@torch.no_grad()
def evaluation_speed(cfg, model, name, max_images=40, warmup=3):
    """Cost of an evaluation on some images of a set.

    Returns:
        dict[str, float]: ``images``; ``images_per_second`` of reading, inference and evaluator's bookkeeping
        together; ``evaluator_seconds``, what the metric itself took in the end.
    """
    dicts = DatasetCatalog.get(name)[:max_images]
    loader = build_detection_test_loader(dataset=dicts, mapper=DomainMapper(cfg, False), num_workers=0)
    evaluator = MICTrainer.build_evaluator(cfg, name)
    parts = evaluator._evaluators if isinstance(evaluator, DatasetEvaluators) else [evaluator]
    evaluator.reset()
    model.eval()
    for batch in itertools.islice(loader, warmup):
        model(batch)
    synchronize()
    start = time.perf_counter()
    for batch in loader:
        evaluator.process(batch, model(batch))
    synchronize()
    middle = time.perf_counter()
    for part in parts:
        # images that were left out are no misses
        chosen = {"img_ids": [x["image_id"] for x in dicts]} if hasattr(part, "_coco_api") else {}
        with contextlib.redirect_stdout(io.StringIO()):  # COCO's table
            part.evaluate(**chosen)
    return {
        "images": len(dicts),
        "images_per_second": len(dicts) / (middle - start),
        "evaluator_seconds": time.perf_counter() - middle,
    }
