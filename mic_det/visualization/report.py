"""One HTML file about one or several runs, which opens without a network."""

import base64
import math
from html import escape

import cv2
import numpy as np

from ..ordinary_files import is_ordinary
from .curves import bar_chart, line_chart, svg_uri
from .run_files import list_pictures

METRICS = ("AP50", "AP", "AP75", "mask AP", "mIoU", "PQ")
CLASS_METRICS = ("AP50", "mIoU")  # shown over steps; by class they are called
CLASS_PREFIXES = ("AP50-", "IoU-")
CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d1f23; background: #fff; max-width: 1180px; margin: 2em auto;
       padding: 0 1.2em; }
h1 { font-size: 1.7em; margin-bottom: .2em; } h2 { margin-top: 2em; border-bottom: 2px solid #d9dce1; }
h3 { margin: 1.4em 0 .3em; font-size: 1.05em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6em 0; }
th, td { padding: .22em .8em; border-bottom: 1px solid #e3e5e9; text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #9aa0a8; }
tr.set th { text-align: left; background: #f2f4f7; } td.text { text-align: left; overflow-wrap: anywhere; }
td.best { font-weight: 700; } .wide { overflow-x: auto; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(420px, 1fr)); gap: .8em; }
.charts img { width: 100%; } .gallery img { width: 100%; border: 1px solid #d9dce1; }
figure { margin: 0 0 1.2em; } figcaption { color: #555b64; font-size: .9em; }
.note { background: #fff4d6; border-left: 4px solid #d99a00; padding: .4em .9em; margin: .5em 0; }
pre { background: #f5f6f8; padding: .8em; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere;
      font-size: .85em; }
summary { cursor: pointer; } .hint { color: #555b64; font-size: .9em; }
"""


def build_report(runs, extra_pictures=(), max_pictures=12):
    """
    Args:
        runs (list[Run]): see :func:`read_run`.
        extra_pictures (sequence of path): folders whose pictures are shown at the end.
        max_pictures (int): of each folder, evenly spread; the page holds them all in itself.

    Returns:
        str: an HTML document that refers to nothing outside of it.
    """
    title = "Run " + runs[0].name if len(runs) == 1 else f"{len(runs)} runs: " + ", ".join(r.name for r in runs)
    body = [f"<h1>{escape(title)}</h1>", _summary(runs), _comparison(runs)]
    body += [_run_section(run, max_pictures) for run in runs]
    for folder in extra_pictures:
        body += [f"<h2>Pictures of {escape(str(folder))}</h2>", _gallery(list_pictures(folder), max_pictures)]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def final_results(run):
    """Test set -> (step, metrics) of the last evaluation of each."""
    return {name: (max(steps), steps[max(steps)]) for name, steps in run.evaluations().items()}


def _summary(runs):
    """The table of final results, a column a run."""
    results = [final_results(run) for run in runs]
    rows = [["steps", *(f"{r.last_step} of {r.setting('SOLVER.MAX_ITER', '?')}" for r in runs)]]
    rows += [["seed", *(r.seed or "?" for r in runs)]]
    rows += [["model", *(str(r.setting("MODEL.META_ARCHITECTURE", "?")) for r in runs)]]
    html = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    for name in dict.fromkeys(n for r in results for n in r):
        steps = [f"step {r[name][0]}" if name in r else "" for r in results]
        html += f'<tr class="set"><th>{escape(name)}</th>' + "".join(f"<td>{s}</td>" for s in steps) + "</tr>"
        found = [r[name][1] if name in r else {} for r in results]
        classes = [k for p in CLASS_PREFIXES for k in sorted({k for f in found for k in f if k.startswith(p)})]
        for metric in (*METRICS, *classes):
            values = [f.get(metric, math.nan) for f in found]
            if all(math.isnan(v) for v in values):
                continue
            known = [v for v in values if not math.isnan(v)]
            best = max(known) if len(known) > 1 else None
            cells = "".join(
                "<td>–</td>" if math.isnan(v) else f"<td{' class=best' if v == best else ''}>{v:.1f}</td>"
                for v in values
            )
            html += f"<tr><td>{escape(metric)}</td>{cells}</tr>"
    head = "".join(f"<th>{escape(c)}</th>" for c in ("", *(r.name for r in runs)))
    nothing = "" if any(results) else '<p class="note">No evaluation was found.</p>'
    hint = (
        "The last evaluation of each run, in per cent; AP is COCO's mean over IoU 0.50 to 0.95, AP50 that at IoU 0.50, "
        "mIoU the mean over the classes of pixels."
    )
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{html}</tbody></table></div>'
    return f'<h2>Results</h2>{_notes(runs)}{table}{nothing}<p class="hint">{hint}</p>'


def _notes(runs):
    return "".join(
        f'<p class="note">{escape(run.name)}: {escape("; ".join(run.notes))}.</p>' for run in runs if run.notes
    )


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
    return _charts(charts)


def _charts(figures):
    images = "".join(f'<img alt="{escape(f.axes[0].get_title(loc="left"))}" src="{svg_uri(f)}">' for f in figures)
    return f'<div class="charts">{images}</div>' if images else ""


def _run_section(run, max_pictures):
    parts = [f"<h2>{escape(run.name)}</h2>", _notes([run])]
    commands = "\n".join(run.commands) or "not known"
    parts.append(f"<h3>Command</h3><pre>{escape(commands)}</pre>")
    parts.append(f"<h3>Losses</h3>{_charts(loss_charts(run)) or 'None were written.'}")
    pseudo = pseudo_box_charts(run)
    if pseudo:
        parts.append(f"<h3>Pseudo-labels</h3>{_charts(pseudo)}")
    quality = quality_charts(run)
    if quality:
        parts.append(f"<h3>Quality of the pseudo-labels</h3>{_charts(quality)}")
        measured = escape(str(run.setting("TEST.PSEUDO_LABELS.DATASET", "a labelled set")))
        text = f"Measured on {measured}; its labels were not trained on. Agreement is that of teacher and student."
        parts.append(f'<p class="hint">{text}</p>')
    accuracies = _curves(run, "align/accuracy")
    if accuracies:
        chart = line_chart("Domain classifiers: share they get right", accuracies, ylim=(0, 1), smooth=3)
        parts.append(f"<h3>Alignment</h3>{_charts([chart])}")
        parts.append('<p class="hint">0.5 = source and target cannot be told apart, or not yet; near 1 = they can.</p>')
    over_time = class_charts(run)
    if over_time:
        parts.append(f"<h3>Each class</h3>{_charts(over_time)}")
    if run.pictures:
        parts.append(f"<h3>Pictures</h3>{_gallery(run.pictures, max_pictures)}")
    rows = [("seed", run.seed or "not known"), *run.environment]
    cells = "".join(f'<tr><td>{escape(k)}</td><td class="text">{escape(v)}</td></tr>' for k, v in rows)
    shown = ("seed", "hardware", "PyTorch", "GPU", "CUDA", "training time", "seconds")
    line = "; ".join(f"{k} {v}" for k, v in rows if k.startswith(shown) and "debug" not in k)
    parts.append(f"<h3>Environment</h3><p>{escape(line)}.</p>")
    parts.append(f"<details><summary>all versions</summary><table>{cells}</table></details>")
    if run.config_text:
        parts.append(f"<details><summary>config.yaml</summary><pre>{escape(run.config_text)}</pre></details>")
    return "\n".join(parts)


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
    for prefix, title in (("loss_", "losses"), ("source/", "source/ (L_S)"), ("masked/", "masked/ (L_M)"),
                          ("align/", "align/ (L_T)"), ("mix/", "mix/ (ClassMix)")):  # fmt: skip
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


def _gallery(files, most, width=1600):
    """Pictures inside the page, made smaller where they are large; broken ones are named."""
    chosen = files if len(files) <= most else [files[i] for i in np.linspace(0, len(files) - 1, most).astype(int)]
    html = f'<p class="hint">{len(chosen)} of {len(files)} pictures.</p>' if len(chosen) < len(files) else ""
    for file in chosen:
        image = cv2.imread(str(file)) if is_ordinary(file) else None
        if image is None:
            html += f'<p class="note">{escape(file.name)} cannot be read.</p>'
            continue
        if image.shape[1] > width:
            size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
        uri = "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")
        name = escape(file.name)
        html += f'<figure><img alt="{name}" src="{uri}"><figcaption>{name}</figcaption></figure>'
    return f'<div class="gallery">{html or "No pictures."}</div>'
