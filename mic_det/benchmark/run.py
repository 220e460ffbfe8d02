"""The whole benchmark: measures, a table, a picture."""

import os
import platform
import statistics

import torch
from tabulate import tabulate

from ..config import is_mic
from ..config.label_kinds import label_kinds
from ..data.loader import build_mic_train_loader
from .data_speed import evaluation_speed, loader_speed
from .memory import peak_memory
from .synthetic import (
    NOISE,
    has_training_sets,
    is_there,
    make_batches,
)
from .timing import (
    alternate,
    measure_parts,
    ratio_to_floor,
    waits_for_gpu,
)
from .variants import (
    FLOORS,
    TITLES,
    make_variant,
    variant_config,
)


def machine():
    """What the numbers were measured on."""
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": [round(x, 2) for x in os.getloadavg()],
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def benchmark_steps(cfg, repeats, names, size=None, synthetic=False, num_batches=4):
    """Seconds of each variant in alternation, ratios to the floor, and the parts of a MIC step."""
    batches, origin = make_batches(cfg, num_batches, size, synthetic)
    variants = {name: make_variant(cfg, name, batches) for name in names}
    seconds = alternate({name: v.run for name, v in variants.items()}, repeats)
    result = {
        "images": origin,
        "image_size": list(batches[0][0]["image"].shape[-2:]),
        "source_images": sum(x["domain"] == "source" for x in batches[0]),
        "target_images": sum(x["domain"] == "target" for x in batches[0]),
        "seconds": seconds,
        "median_ms": {name: statistics.median(s) * 1000 for name, s in seconds.items()},
        "ratios": {
            name: ratio_to_floor(seconds, name, floor)
            for name, floor in FLOORS.items()
            if name in seconds and all(f in seconds for f in floor)
        },
    }
    if "mic" in variants:
        boxes = variants["mic"].model.task("boxes")
        result["score_threshold"] = boxes and boxes.select["score_threshold"]
        step = variants["mic"].run
        if origin != NOISE:  # then a step also waits for data
            loader = build_mic_train_loader(variant_config(cfg, "mic"))
            step = variants["mic"].replaced(loader)
        result["waits_for_gpu"] = {n: waits_for_gpu(variants[n].run) for n in ("plain", "mic") if n in variants}
        parts = measure_parts(step, repeats)
        result["parts_ms"] = {name: value * 1000 for name, value in parts.items()}
    return result


def benchmark_memory(cfg, names, size, modules=()):
    """Peak memory of each variant in MiB, and that of MIC beyond what it may take: plain + weights + 10 %.

    ``modules`` are those of ``--import``, which register what the config names.
    """
    peaks = {name: peak_memory(cfg, name, size, modules=modules) for name in names}
    result = {"peak_mib": {n: p["peak"] for n, p in peaks.items()}}
    result["weights_mib"] = next(iter(peaks.values()))["weights"]
    if "plain" in peaks and "mic" in peaks:
        allowed = (peaks["plain"]["peak"] + peaks["plain"]["weights"]) * 1.1
        result["mic_to_allowed"] = peaks["mic"]["peak"] / allowed
    return result


def benchmark_data(cfg, max_images):
    """Speed of the loader and of evaluation, of the sets that are on this machine."""
    result = {}
    if has_training_sets(cfg):
        result["loader_images_per_second"] = loader_speed(cfg)
        result["loader_workers"] = cfg.DATALOADER.NUM_WORKERS
    if cfg.DATASETS.TEST and is_there(cfg.DATASETS.TEST[0]) and "boxes" in label_kinds(cfg):
        own = cfg if is_mic(cfg) else variant_config(cfg, "plain")
        model = make_variant(cfg, "teacher", make_batches(cfg, 1)[0]).model
        result["evaluation"] = evaluation_speed(own, model, cfg.DATASETS.TEST[0], max_images)
    return result


def sweep(cfg, sizes, batch_sizes, repeats):
    """Cost of a MIC step and of its floor against image size and images a domain.

    Args:
        sizes (list[(int, int)]): height and width of made-up images.
        batch_sizes (list[int]): source images a step, and as many target images.

    Returns:
        list[dict]: ``size``, ``batch``, ``mic_ms``, ``floor_ms``, ``ratio`` of each combination.
    """
    points = []
    for size in sizes:
        for batch in batch_sizes:
            own = cfg.clone()
            own.defrost()
            own.SOLVER.IMS_PER_BATCH = own.SOLVER.IMS_PER_BATCH_TARGET = batch
            found = benchmark_steps(own, repeats, ("plain", "teacher", "mic"), size, synthetic=True, num_batches=1)
            ms = found["median_ms"]
            points.append(
                {"size": list(size), "batch": batch, "mic_ms": ms["mic"], "floor_ms": ms["plain"] + ms["teacher"],
                 "ratio": found["ratios"]["mic"]}
            )  # fmt: skip
    return points


def as_text(result):
    """The tables that are printed."""
    lines = []
    steps = result["steps"]
    on = result["machine"]
    lines.append(
        f"{on.get('gpu', 'CPU')}, {on['threads']} threads of {on['cores']} cores, torch {on['torch']}, load average "
        f"{on['load_average'][0]}; {steps['source_images']} source + {steps['target_images']} target images of "
        f"{steps['image_size'][0]} x {steps['image_size'][1]} ({steps['images']})"
    )
    peaks = result.get("memory", {}).get("peak_mib", {})
    rows = []
    for name, ms in steps["median_ms"].items():
        ratio = steps["ratios"].get(name)
        rows.append([TITLES[name], f"{ms:.0f}", f"{ratio:.2f}" if ratio else "", f"{peaks[name]:.0f}" if peaks else ""])
    lines.append(tabulate(rows, ["one step", "ms (median)", "x floor", "peak MiB"], disable_numparse=True))
    if "parts_ms" in steps:
        total = sum(steps["parts_ms"].values())
        rows = [[name, f"{ms:.1f}", f"{100 * ms / total:.1f}"] for name, ms in steps["parts_ms"].items()]
        lines.append(tabulate(rows, ["part of a MIC step", "ms (median)", "%"], disable_numparse=True))
    for name, waits in steps.get("waits_for_gpu", {}).items():
        if waits:
            own = {k: n for k, n in waits.items() if k.startswith("mic_det/")}
            lines.append(f"{TITLES[name]}: the host waits {sum(waits.values())} times for the GPU, in mic_det at {own}")
    memory, data = result.get("memory", {}), result.get("data", {})
    if "mic_to_allowed" in memory:
        lines.append(
            f"peak memory of MIC / (plain + one set of weights of {memory['weights_mib']:.0f} MiB + 10 %): "
            f"{memory['mic_to_allowed']:.2f}"
        )
    if "loader_images_per_second" in data:
        lines.append(
            f"loader alone, {data['loader_workers']} workers: {data['loader_images_per_second']:.1f} images a second"
        )
    if "evaluation" in data:
        e = data["evaluation"]
        lines.append(
            f"evaluation: {e['images_per_second']:.1f} images a second, then {e['evaluator_seconds']:.2f} s of metrics "
            f"for {e['images']} images"
        )
    for p in result.get("sweep", []):
        lines.append(
            f"{p['size'][0]} x {p['size'][1]}, {p['batch']} + {p['batch']} images: {p['mic_ms']:.0f} ms, "
            f"{p['ratio']:.2f} x floor"
        )
    return "\n\n".join(lines)


def plot_sweep(points, path):
    """Milliseconds a step against images a domain and against pixels an image, MIC beside its floor."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    sizes = sorted({tuple(p["size"]) for p in points})
    batches = sorted({p["batch"] for p in points})
    for axis, groups, own, x, label in (
        (axes[0], sizes, lambda p: tuple(p["size"]), lambda p: p["batch"], "source images, and as many target images"),
        (axes[1], batches, lambda p: p["batch"], lambda p: p["size"][0] * p["size"][1] / 1e3, "1000 pixels an image"),
    ):
        for i, group in enumerate(groups):
            chosen = sorted((p for p in points if own(p) == group), key=x)
            name = f"{group[0]} x {group[1]}" if isinstance(group, tuple) else f"{group} + {group} images"
            axis.plot(list(map(x, chosen)), [p["mic_ms"] for p in chosen], "o-", color=f"C{i}", label=name)
            axis.plot(list(map(x, chosen)), [p["floor_ms"] for p in chosen], "--", color=f"C{i}")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set(xlabel=label, ylabel="ms a step", ylim=(0, None), xlim=(0, None))
        axis.legend(title="MIC; dashed: plain step + teacher inference", fontsize="small", title_fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)
