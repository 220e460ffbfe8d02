"""The latency benchmark on a tiny detector: what it compares, not how fast that is."""

import json
import statistics

import pytest
import torch
from detectron2.modeling import build_model

from helpers.data import forget_registered_sets, load, run_tool_here, tiny_config, write_config, write_two_domains
from mic_det.benchmark.latency import FLOAT, INT8, TORCH

pytestmark = pytest.mark.slow
for name in ("onnx", "onnxruntime"):
    pytest.importorskip(name)


def test_onnx_finds_what_pytorch_finds_and_ratios_are_of_rounds(tmp_path, monkeypatch, capsys):
    write_two_domains(tmp_path)
    config = tiny_config(tmp_path, INPUT={"MIN_SIZE_TEST": 48, "MAX_SIZE_TEST": 72})
    write_config(tmp_path / "plain.yaml", config)
    with forget_registered_sets():
        torch.manual_seed(0)
        model = build_model(load(tmp_path, config))
    with torch.no_grad():
        for p in model.roi_heads.box_predictor.parameters():
            p.add_(torch.randn(p.shape) * 0.3)
    torch.save({"model": model.state_dict()}, tmp_path / "plain.pth")
    run_tool_here(
        "benchmark.py", "--config-file", tmp_path / "plain.yaml", "--latency", tmp_path / "target/images",
        "--repeats", 3, "--output", tmp_path / "out", "MODEL.WEIGHTS", tmp_path / "plain.pth", monkeypatch=monkeypatch,
    )  # fmt: skip
    result = json.loads((tmp_path / "out/benchmark.json").read_text(encoding="utf-8"))["latency"]
    count = len(list((tmp_path / "target/images").iterdir()))
    same = result["agreement"][FLOAT]
    assert result["images"] == count and same["exact"] == same["near"] == 1 and same["detections"] > 5 * count
    assert 0 <= result["agreement"][INT8]["exact"] < 1, "the weights are int8"
    assert result["agreement"][INT8]["exact"] <= result["agreement"][INT8]["near"] <= 1
    for name, seconds in result["seconds"].items():
        assert len(seconds) == 3
        assert result["median_ms"][name] == pytest.approx(1000 * statistics.median(seconds))
        ratios = sorted(x / y for x, y in zip(seconds, result["seconds"][TORCH]))
        assert result["ratio_to_torch"][name] == pytest.approx(ratios[1])
    assert FLOAT in capsys.readouterr().out
