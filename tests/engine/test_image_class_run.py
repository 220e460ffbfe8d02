"""A whole run of an image classifier: training, resume, pictures, evaluation, report."""

import json

import pytest
import torch

from helpers.data import refusal_here, run_tool_here
from helpers.image_classes import tiny_options, write_class_folders
from mic_det.engine.optimizer import build_schedule
from mic_det.engine.setup import load_config
from mic_det.experiments.run_files import read_run

pytestmark = pytest.mark.slow


def test_a_run_learns_resumes_exactly_and_is_evaluated(tmp_path, monkeypatch):
    write_class_folders(tmp_path)
    config = tmp_path / "config.yaml"
    host = ["MODEL.MIC.MCC.WEIGHT", 0.1, "MODEL.MIC.CDAN.WEIGHT", 0.1, "MODEL.MIC.CDAN.FC_DIM", 8,
            "MODEL.MIC.SAM.RHO", 0.02, "TEST.PSEUDO_LABELS.DATASET", "target"]  # fmt: skip
    solver = ["SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", 0.01, "SOLVER.WARMUP_ITERS", 0, "SOLVER.STEPS", (),
              "SOLVER.MAX_ITER", 60, "SOLVER.CHECKPOINT_PERIOD", 20]  # fmt: skip
    cfg = load_config("", tiny_options(tmp_path, *host, *solver))
    config.write_text(cfg.dump())

    def train(output, *args):
        args = ["--config-file", config, *args, "OUTPUT_DIR", output]
        run_tool_here("train_net.py", *args, monkeypatch=monkeypatch)
        return torch.load(output / "model_final.pth", weights_only=False)["model"]

    whole = train(tmp_path / "whole", "VIS_PERIOD", 30)
    rows = [json.loads(x) for x in (tmp_path / "whole" / "metrics.json").read_text().splitlines()]
    logged = {k for row in rows for k in row}
    losses = {"source/loss_class", "masked/loss_class", "target/loss_confusion", "align/loss_class"}
    assert losses | {"pseudo/confidence", "align/accuracy_class", "pseudo_labels/precision"} <= logged
    accuracy = rows[-1]["image_class/accuracy"]
    assert accuracy > 50, "three colours: by chance it is 33"
    assert len(list((tmp_path / "whole" / "visuals").glob("*.jpg"))) == 6
    # stopped in the middle, and resumed: the same weights, bit for bit
    train(tmp_path / "part", "SOLVER.MAX_ITER", 20)
    again = train(tmp_path / "part", "--resume")
    assert all(torch.equal(v, again[k]) for k, v in whole.items())
    # evaluation of the checkpoint gives the number of the training's end
    run_tool_here(
        "train_net.py", "--config-file", config, "--eval-only", "OUTPUT_DIR", tmp_path / "eval", "MODEL.WEIGHTS",
        tmp_path / "whole" / "model_final.pth", monkeypatch=monkeypatch,
    )  # fmt: skip
    counts = json.loads((tmp_path / "eval" / "inference" / "target" / "confusion.json").read_text())["counts"]
    rates = [row[i] / sum(row) for i, row in enumerate(counts)]
    assert 100 * sum(rates) / 3 == pytest.approx(accuracy)
    run_tool_here("report.py", tmp_path / "whole", "--output", tmp_path / "page.html", monkeypatch=monkeypatch)
    page = (tmp_path / "page.html").read_text()
    assert "accuracy-red" in page
    assert read_run(tmp_path / "whole").pictures[-1].name == "confusion.png"
    message = refusal_here(
        "predict.py", "--config-file", config, "--input", tmp_path / "target" / "red" / "0.png", "--output",
        tmp_path / "out", "MODEL.WEIGHTS", tmp_path / "whole" / "model_final.pth", monkeypatch=monkeypatch,
    )  # fmt: skip
    assert "predicts the class of an image" in message


def test_the_inverse_decay_of_the_learning_rate(tmp_path):
    cfg = load_config("", [
        "MODEL.DEVICE", "cpu", "SOLVER.LR_SCHEDULER_NAME", "WarmupInverseLR", "SOLVER.BASE_LR", 0.002,
        "SOLVER.WARMUP_ITERS", 0, "SOLVER.MAX_ITER", 2000,
    ])  # fmt: skip
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.002)
    schedule, rates = build_schedule(cfg, optimizer), []
    for _ in range(1001):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.002)
    assert rates[1] == pytest.approx(0.002 * 1.001**-0.75, rel=1e-9)
    assert rates[1000] == pytest.approx(0.002 * 2**-0.75, rel=1e-9)
