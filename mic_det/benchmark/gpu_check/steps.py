"""The cost of a training step on the device: against its floor, by its parts, in variants, and in memory."""

import contextlib
import statistics
import threading

import torch

from ...engine.setup import get_mic_cfg
from ..run import benchmark_memory
from ..synthetic import make_batches
from ..timing import alternate, measure_parts, ratio_to_floor, waits_for_gpu
from ..variants import make_variant

CONFIG = "cityscapes_to_foggy/mic_sada.yaml"
# name -> (what is divided, what it is divided by): medians over rounds in which both ran
RATIOS = {
    "mic": ("mic", ("plain", "teacher")),
    "mic_sada": ("mic_sada", ("plain_sada", "teacher")),
    "sequential": ("mic_sequential", ("mic",)),
    "channels_last": ("channels_last", ("mic",)),
    "bfloat16": ("bfloat16", ("mic",)),
    "own_stream": ("own_stream", ("plain", "teacher")),
}


def measured_config(settings, images, *opts):
    """The measured config with random weights.

    Args:
        settings (Settings): device and opts.
        images (int): source images of a step, and as many target images.
    """
    keys = ["MODEL.DEVICE", settings.device, "MODEL.WEIGHTS", "", "SOLVER.IMS_PER_BATCH", images]
    return get_mic_cfg(CONFIG, [*keys, "SOLVER.IMS_PER_BATCH_TARGET", images, *settings.opts, *opts])


class Feed:
    """Endless batches, which can be exchanged: each variant is built once for all batch sizes."""

    def __init__(self, batches, more_targets=False):
        self.batches, self.more_targets = batches, more_targets

    def __iter__(self):
        i = 0
        while True:
            batch = self.batches[i % len(self.batches)]
            extra = [x for x in batch if x["domain"] == "target"] if self.more_targets else []
            yield [*batch, *extra]
            i += 1


def measure_steps(settings, save):
    """Seconds of the variants in alternation, for each batch size."""
    cfg = measured_config(settings, settings.images[0])
    batches = {n: _batches(settings, n) for n in settings.images}
    feed, larger = Feed(batches[settings.images[0]]), Feed(batches[settings.images[0]], more_targets=True)

    def make(name, feed=feed, cfg=cfg):
        return make_variant(cfg, name, feed.batches, feed)

    variants = {name: make(name) for name in ("plain", "teacher", "mic", "mic_sequential", "mic_sada")}
    # MIC + SADA looks at three images where MIC looks at two: source, masked target, and whole target
    variants["plain_sada"] = make("plain", larger)
    variants["channels_last"] = make("mic")
    variants["channels_last"].model.to(memory_format=torch.channels_last)
    variants["bfloat16"] = make(
        "mic", cfg=measured_config(settings, 1, "SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16")
    )
    runs = {name: v.run for name, v in variants.items()}
    runs["own_stream"] = _side_by_side(runs["plain"], make("teacher").run, settings.device)
    found = {}
    for images, rounds in zip(settings.images, settings.rounds):
        feed.batches = larger.batches = batches[images]
        seconds = alternate(runs, rounds, warmup=1 if rounds < 5 else 2)
        result = found[f"{images}+{images}"] = {
            "images": images,
            "median_ms": {name: 1000 * statistics.median(s) for name, s in seconds.items()},
            "ratios": {name: ratio_to_floor(seconds, *pair) for name, pair in RATIOS.items()},
        }
        save(found)
        result["parts_ms"] = {k: 1000 * v for k, v in measure_parts(runs["mic"], rounds, warmup=1).items()}
        result["waits"] = {name: waits_for_gpu(runs[name]) for name in ("plain", "teacher", "mic", "mic_sada")}
        save(found)


def _batches(settings, images):
    return make_batches(measured_config(settings, images), 2, tuple(settings.size), True)[0]


def _side_by_side(first, second, device):
    """A function that runs both at the same time, the second in another thread and on a stream of its own.

    No step can gain more from a stream for its teacher: a MIC step needs the teacher's boxes before its losses.
    """
    stream = torch.cuda.Stream() if device == "cuda" else None

    def on_stream(errors):
        try:
            with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
                second()
        except BaseException as e:
            errors.append(e)

    def run():
        errors = []
        thread = threading.Thread(target=on_stream, args=(errors,))
        thread.start()
        first()
        thread.join()
        if errors:
            raise errors[0]

    return run


def measure_memory(settings, save):
    """Peak memory of the plain step and of the MIC step, each in a process of its own, and of more variants."""
    found = {}
    for images in settings.images:
        cfg = measured_config(settings, images)
        found[f"{images}+{images}"] = benchmark_memory(cfg, ("plain", "mic"), tuple(settings.size))
        save(found)
    if settings.more_memory:
        images = settings.images[0]
        others = benchmark_memory(measured_config(settings, images), settings.more_memory, tuple(settings.size))
        found[f"{images}+{images}"]["peak_mib"].update(others["peak_mib"])
        save(found)


def measure_compile(settings, save):
    """A MIC step whose backbones are compiled by ``torch.compile``, against the same step as it is."""
    images = settings.images[0]
    cfg, feed = measured_config(settings, images), Feed(_batches(settings, images))
    plain, compiled = (make_variant(cfg, "mic", feed.batches, feed) for _ in range(2))
    for model in (compiled.model.student, compiled.model.teacher):
        model.backbone.compile(backend=settings.compiler)
    first = alternate({"compiled": compiled.run}, 1, warmup=0)["compiled"][0]
    save({"first_step_seconds": first})
    seconds = alternate({"mic": plain.run, "compiled": compiled.run}, settings.rounds[0], warmup=2)
    save({
        "first_step_seconds": first,
        "median_ms": {name: 1000 * statistics.median(s) for name, s in seconds.items()},
        "ratio": ratio_to_floor(seconds, "compiled", ("mic",)),
    })  # fmt: skip
