"""One HTML file about one or several runs, which opens without a network."""

import base64
import math

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from ..utils.ordinary_files import is_ordinary
from ..visualization.curves import bar_chart, line_chart, svg_uri
from .run_files import list_pictures

METRICS = ("AP50", "AP", "AP75", "mask AP", "keypoint AP", "PCK", "mIoU", "PQ", "accuracy", "top-1")
CLASS_METRICS = ("AP50", "PCK", "mIoU", "accuracy")  # shown over steps; by class they are called
CLASS_PREFIXES = ("AP50-", "PCK-", "IoU-", "accuracy-")
SHOWN = ("seed", "hardware", "PyTorch", "GPU", "CUDA", "training time", "seconds")  # of the environment, at once


def build_report(runs, extra_pictures=(), max_pictures=12, tables=()):
    """
    Args:
        runs (list[Run]): see :func:`read_run`.
        extra_pictures (sequence of path): folders whose pictures are shown at the end.
        max_pictures (int): of each folder, evenly spread; the page holds them all in itself.
        tables (list[Table]): of :func:`read_table`, shown after the results.

    Returns:
        str: an HTML document that refers to nothing outside of it.
    """
    # autoescape: names of classes, metrics and files, settings and logs are text, whatever is in them
    environment = Environment(
        loader=PackageLoader(__package__), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(svg_uri=svg_uri, picture_uri=_picture_uri, evenly=_evenly)
    return environment.get_template("report.html").render(
        title="Run " + runs[0].name if len(runs) == 1 else f"{len(runs)} runs: " + ", ".join(r.name for r in runs),
        runs=runs,
        settings={
            "steps": [f"{r.last_step} of {r.setting('SOLVER.MAX_ITER', '?')}" for r in runs],
            "seed": [r.seed or "?" for r in runs],
            "model": [r.setting("MODEL.META_ARCHITECTURE", "?") for r in runs],
        },
        results=_results(runs),
        comparison=_comparison(runs),
        sections_of_runs=[(run, _sections(run)) for run in runs],
        extra_pictures=[(folder, list_pictures(folder)) for folder in extra_pictures],
        max_pictures=max_pictures,
        tables=tables,
        SHOWN=SHOWN,
    )


def final_results(run):
    """Test set -> (step, metrics) of the last evaluation of each."""
    return {name: (max(steps), steps[max(steps)]) for name, steps in run.evaluations().items()}


def _results(runs):
    """Of each test set its name, and a column a run: ``steps``, and ``rows`` of (metric, values, the best or None)."""
    results, sets = [final_results(run) for run in runs], []
    for name in dict.fromkeys(n for r in results for n in r):
        found = [r[name][1] if name in r else {} for r in results]
        classes = [k for p in CLASS_PREFIXES for k in sorted({k for f in found for k in f if k.startswith(p)})]
        rows = []
        for metric in (*METRICS, *classes):
            values = [f.get(metric, math.nan) for f in found]
            known = [v for v in values if not math.isnan(v)]
            if known:
                best = max(known) if len(known) > 1 else None
                rows.append((metric, [None if math.isnan(v) else v for v in values], best))
        steps = [f"step {r[name][0]}" if name in r else "" for r in results]
        sets.append({"name": name, "steps": steps, "rows": rows})
    return sets


def _comparison(runs):
    """AP50 and mIoU over steps and by class: each run a line or a colour, each test set a chart."""
    charts = []
    every = [(run, run.evaluations()) for run in runs]
    for name in dict.fromkeys(n for _, e in every for n in e):
        for metric, prefix in zip(CLASS_METRICS, CLASS_PREFIXES):
            curves, last = {}, {}
            for run, evaluations in every:
                steps = evaluations.get(name, {})
                points = [(s, v[metric]) for s, v in steps.items() if math.isfinite(v.get(metric, math.nan))]
                if points:
                    curves[run.name] = tuple(zip(*points))
                if steps:
                    last[run.name] = steps[max(steps)]
            if any(len(s) > 1 for s, _ in curves.values()):
                charts.append(line_chart(f"{metric} on {name}", curves, ylabel=f"{metric} (%)"))
            classes = sorted({k[len(prefix) :] for v in last.values() for k in v if k.startswith(prefix)})
            if classes:
                bars = {n: [v.get(prefix + c, math.nan) for c in classes] for n, v in last.items()}
                title = f"{prefix[:-1]} of each class on {name}, last evaluation"
                charts.append(bar_chart(title, classes, bars, ylabel=f"{prefix[:-1]} (%)"))
    return charts


def _sections(run):
    """The groups of charts of one run; those without any are left out, except the losses."""
    accuracies = _curves(run, "align/accuracy")
    alignment = [line_chart("Domain classifiers: share they get right", accuracies, ylim=(0, 1), smooth=3)]
    sections = [
        ("Losses", loss_charts(run), ""),
        ("Pseudo-labels", pseudo_box_charts(run), ""),
        (
            "Quality of the pseudo-labels",
            quality_charts(run),
            f"Measured on {run.setting('TEST.PSEUDO_LABELS.DATASET', 'a labelled set')}; its labels were not trained "
            "on. Agreement is that of teacher and student.",
        ),
        ("Without target labels", label_free_charts(run), _kept(run)),
        (
            "Alignment",
            alignment if accuracies else [],
            "0.5 = the classifier cannot tell source and target apart, or not yet; near 1 = it can.",
        ),
        ("Each class", class_charts(run), ""),
    ]
    return [
        {"title": title, "charts": charts, "hint": hint}
        for title, charts, hint in sections
        if charts or title == "Losses"
    ]


def _curves(run, prefix, keep=lambda name: True):
    """Curves of all metrics with a prefix, called by what comes after the prefix and its separator."""
    names = [n for n in run.names(prefix) if keep(n)]
    curves = {n[len(prefix) :].lstrip("_/") or n: run.curve(n) for n in names}
    return {label: curve for label, curve in curves.items() if curve[0]}


def loss_charts(run):
    """Total loss, then the losses of each origin: source, masked, align; a plain detector's have none."""
    charts = []
    total = run.curve("total_loss")
    if total[0]:
        charts.append(line_chart("total loss", {"_total": total}))
    for prefix, title in (
        ("loss_", "losses"), ("source/", "source/ (L_S)"), ("masked/", "masked/ (L_M)"), ("align/", "align/ (L_T)"),
        ("target/", "target/ (MCC)"), ("mix/", "mix/ (ClassMix)"),
    ):  # fmt: skip
        curves = _curves(run, prefix, lambda n: n.split("/")[-1].startswith("loss"))
        if curves:
            charts.append(line_chart(title, curves))
    return charts


def pseudo_box_charts(run):
    """Pseudo-boxes an image against true boxes a source image, by class, and what the teacher thinks of them."""
    charts = []
    total = {"pseudo-boxes a target image": run.curve("pseudo/num_boxes")}
    total["true boxes a source image"] = run.curve("source/num_boxes")
    total = {k: v for k, v in total.items() if v[0]}
    if run.curve("pseudo/num_boxes")[0]:
        charts.append(line_chart("boxes an image", total, smooth=3, dashed=["true boxes a source image"]))
    classes = _curves(run, "pseudo/num_boxes_")
    if classes:
        charts.append(line_chart("pseudo-boxes an image, by class (running mean of 7)", classes, smooth=7))
    shares = _curves(run, "pseudo/", lambda n: not n.startswith("pseudo/num_boxes"))
    if shares:
        high = max(1.0, max(max(v) for _, v in shares.values()))
        charts.append(line_chart("scores and shares", shares, ylim=(0, 1.05 * high), smooth=3))
    return charts


def class_charts(run):
    """AP50 and IoU of each class over the evaluations, where there were several."""
    charts = []
    for name, steps in run.evaluations().items():
        for prefix in CLASS_PREFIXES:
            curves = curves_by_class(steps, prefix)
            if len(steps) > 1 and curves:
                what = prefix[:-1]
                charts.append(line_chart(f"{what} of each class on {name}", curves, ylabel=f"{what} (%)"))
    return charts


def curves_by_class(steps, prefix):
    """Class -> (steps, values) from {step: {"AP50-car": ...}}, sorted by the class's name."""
    curves = {}
    for step, values in steps.items():
        for key, value in values.items():
            if key.startswith(prefix) and math.isfinite(value):
                curve = curves.setdefault(key[len(prefix) :], ([], []))
                curve[0].append(step)
                curve[1].append(value)
    return dict(sorted(curves.items()))


def quality_charts(run):
    """How good the pseudo-labels were (``TEST.PSEUDO_LABELS``): all together, then by class."""
    names = ("precision", "recall", "AP50", "mIoU", "agreement", "images", "classes")
    curves = {n: run.curve(f"pseudo_labels/{n}") for n in names}
    curves = {n: c for n, c in curves.items() if c[0]}
    charts = [line_chart("quality of pseudo-labels", curves, ylabel="%", ylim=(0, 105))] if curves else []
    for prefix in ("precision", "recall", "AP50", "IoU"):
        by_class = _curves(run, f"pseudo_labels/{prefix}-")
        if by_class:
            charts.append(line_chart(f"{prefix} of pseudo-labels, by class", by_class, ylabel="%", ylim=(0, 105)))
    return charts


def label_free_charts(run):
    """The score of ``TEST.LABEL_FREE`` over steps, then the criteria that it combines."""
    curves = _curves(run, "label_free/")
    start = curves.pop("start", None)
    curves.pop("lost_classes", None)
    if start and "score" in curves:  # counted from 0, as of the steps
        curves["score"] = ([-1, *curves["score"][0]], [*start[1][:1], *curves["score"][1]])
    score = {k: v for k, v in curves.items() if k == "score"}
    criteria = {k: v for k, v in curves.items() if k != "score"}
    titles = ("score without labels", "criteria without labels")
    return [line_chart(title, x) for title, x in zip(titles, (score, criteria)) if x]


def _kept(run):
    steps, scores = run.curve("label_free/score")
    if not steps:
        return ""
    best = max(range(len(steps)), key=scores.__getitem__)
    lost = run.steps_done(step for step, count in zip(*run.curve("label_free/lost_classes")) if count)
    (best_step,) = run.steps_done([steps[best]])
    text = (
        f"Higher is better. {_lost(lost)}The highest score of the evaluations in metrics.json is {scores[best]:.3f}, "
        f"after step {best_step}. "
    )
    start = run.curve("label_free/start")[1]
    if start and start[0] >= scores[best]:
        return text + (
            f"The start's score is {start[0]:.3f}, so the training did not help. model_best_label_free.pth has the "
            "weights of the start."
        )
    text += f"The start's score is {start[0]:.3f}. " if start else ""
    return text + "model_best_label_free.pth has the weights with the highest score of the run."


def _lost(steps):
    if not steps:
        return ""
    return (
        f"The score is 0 where a class of the start is lost, which was first seen after step {steps[0]}. The log names "
        "the class. "
    )


def _evenly(files, most):
    """At most ``most`` of the files, evenly spread."""
    return files if len(files) <= most else [files[i] for i in np.linspace(0, len(files) - 1, most).astype(int)]


def _picture_uri(file, width=1600):
    """A picture as a URI that holds it, made smaller where it is large; "" where it cannot be read."""
    image = cv2.imread(str(file)) if is_ordinary(file) else None
    if image is None:
        return ""
    if image.shape[1] > width:
        size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")
