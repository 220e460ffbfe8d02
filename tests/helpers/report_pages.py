"""Run folders without a training, and the pages that tools/report.py makes of them, for tests."""

import json
from html.parser import HTMLParser

from helpers.data import run_tool_here

CONFIG = """MODEL: {META_ARCHITECTURE: MIC}
DATASETS: {TEST: [fog_val]}
SOLVER: {MAX_ITER: 60}
SEED: 7
"""
LOG = """[11/24 13:47:54] detectron2 INFO: Environment info:
-------------------------------  ---------------------------
sys.platform                     linux
PyTorch                          2.9.1+cpu @/some/folder/torch
GPU available                    No
-------------------------------  ---------------------------
PyTorch built with:
  - nothing

[11/24 13:47:54] detectron2 INFO: Command line arguments: Namespace(config_file='mic.yaml', resume=True, \
eval_only=False, num_gpus=2, num_machines=1, machine_rank=0, dist_url='tcp://127.0.0.1:1', \
opts=['SEED', '7', 'OUTPUT_DIR', 'two words'])
[11/24 14:00:00] d2.engine.hooks INFO: Total training time: 0:12:06 (0:00:01 on hooks)
"""


class Page(HTMLParser):
    """Tables as lists of rows of texts, pictures by their caption, texts of <pre>; tags must be balanced."""

    VOID = ("meta", "img", "br")

    def __init__(self, html):
        super().__init__()
        self.open, self.tables, self.images, self.links = [], [], {}, []
        self.texts = {"pre": [], "title": [], "p": [], "summary": [], "h2": [], "h3": [], "figcaption": []}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "action")]
        assert not any(k.startswith("on") for k, _ in attrs) and tag not in ("script", "iframe", "link", "object")
        if tag == "img":
            self.images[dict(attrs)["alt"]] = dict(attrs)["src"]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag in self.texts:
            self.texts[tag].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        elif self.open and self.open[-1] in self.texts:
            self.texts[self.open[-1]][-1] += data


def lines(steps=60, ap=None):
    """A run's metrics as Detectron2 writes them: every 20 steps, and the evaluation after the last one."""
    out = []
    for i in range(19, steps, 20):
        values = {"iteration": i, "total_loss": 3.0 / (i + 1), "time": 0.25, "lr": 0.01}
        values.update({"source/loss_cls": 1.0, "masked/loss_cls": 0.5, "align/loss_image": 0.69})
        values.update({"source/num_boxes": 5.0, "pseudo/num_boxes": 2.0, "pseudo/num_boxes_car": 2.0})
        values.update({"pseudo/mean_score": 0.9, "align/accuracy_image_p2": 0.6})
        out.append(json.dumps(values))
    if ap is not None:
        out.append(json.dumps({"iteration": steps, **{f"bbox/{k}": v for k, v in ap.items()}}))
    return out


def write_run(folder, content, config=CONFIG, log=LOG, checkpoint=True):
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("\n".join(content))
    if config:
        (folder / "config.yaml").write_text(config)
    if log:
        (folder / "log.txt").write_text(log)
    if checkpoint:
        (folder / "model_final.pth").touch()
    return folder


def report(tmp_path, *runs, monkeypatch, more=()):
    output = tmp_path / "pages/report.html"
    run_tool_here("report.py", *runs, "--output", output, *more, monkeypatch=monkeypatch)
    return Page(output.read_text(encoding="utf-8"))
