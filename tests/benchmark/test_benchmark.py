"""What the benchmark counts, by hand; and the tool on a tiny detector and data set. Nothing here depends on speed."""

import json

import pytest
import torch

from helpers.data import (
    forget_registered_sets,
    load,
    refusal_here,
    run_tool_here,
    tiny_config,
    write_config,
    write_two_domains,
)
from mic_det.benchmark import memory, timing
from mic_det.benchmark.run import plot_sweep
from mic_det.benchmark.synthetic import make_batches, synthetic_batch
from mic_det.benchmark.variants import (
    FLOORS,
    TITLES,
    make_variant,
    variant_config,
    variant_names,
)
from mic_det.utils import step_timer as sections
from mic_det.utils.step_timer import StepTimer, record

pytestmark = pytest.mark.slow

KEYS = {
    "MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TRAIN": ["source_train"], "DATASETS__TARGET": ["target_train"],
    "DATASETS__TEST": ["target_val"], "MODEL__SEM_SEG_HEAD": {"NUM_CLASSES": 3, "CONVS_DIM": 8, "NORM": ""},
    "SOLVER__IMS_PER_BATCH": 1, "SOLVER__IMS_PER_BATCH_TARGET": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("benchmark")
    write_two_domains(root)
    write_config(root / "config.yaml", tiny_config(root, **KEYS))
    return root


@pytest.fixture
def cfg(folder):
    with forget_registered_sets():
        yield load(folder, tiny_config(folder, **KEYS))


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [100.0]
    monkeypatch.setattr(sections, "_now", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_a_sections_seconds_are_its_own(clock):
    def step():
        with record("outer"):
            clock(1)
            with record("inner"):
                clock(2)
                with record("inner"):
                    clock(3)
            clock(4)
        clock(50)
        with record("outer"):
            clock(5)

    step()  # nobody measures
    with StepTimer() as watch:
        step()
    step()
    assert watch.seconds == {"outer": 10, "inner": 5}


def test_a_section_that_fails_is_closed(clock):
    with StepTimer() as watch:
        with pytest.raises(KeyError), record("outer"):
            clock(1)
            with record("inner"):
                clock(2)
                raise KeyError
        with record("after"):
            clock(4)
    assert watch.seconds == {"outer": 1, "inner": 2, "after": 4}


def test_all_take_turns_and_the_warm_up_does_not_count():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = timing.alternate(functions, repeats=3, warmup=1)
    assert calls == list("abcbcacababc")
    assert {k: len(v) for k, v in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_the_ratio_is_the_median_over_rounds():
    # a slow second round, slow for all: 2.2 / 2, 40 / 20, 3.3 / 3
    seconds = {"mic": [2.2, 40, 3.3], "plain": [1.5, 15, 2], "teacher": [0.5, 5, 1]}
    assert timing.ratio_to_floor(seconds, "mic", ("plain", "teacher")) == pytest.approx(1.1)


@pytest.mark.parametrize(
    "file, place",
    [
        ("/home/a/mic_det/mic_det/modeling/terms/x.py", "mic_det/modeling/terms/x.py"),
        ("/home/a/mic_det/.venv/lib/site-packages/torch/nn/x.py", "torch/nn/x.py"),
        ("/tmp/packages/detectron2/layers/x.py", "detectron2/layers/x.py"),
        ("/tmp/other/x.py", "/tmp/other/x.py"),
    ],
)
def test_files_are_named_by_their_package(file, place):
    assert timing.place_in_package(file) == place


def test_variants_are_what_their_titles_say(cfg):
    assert variant_names(cfg) == list(TITLES)
    assert variant_names(cfg, ["mic"]) == ["plain", "teacher", "mic"]
    cfg.MODEL.FPN.NORM = "BN"
    assert "mic_sequential" not in variant_names(cfg)
    cfg.MODEL.FPN.NORM = "GN"
    batches = make_batches(cfg, 1, (64, 96))[0]
    seen = []
    for name in TITLES:
        own = variant_config(cfg, name)
        assert (own.MODEL.META_ARCHITECTURE == "MIC") == name.startswith("mic")
        variant = make_variant(cfg, name, batches)
        seen.clear()
        students = getattr(variant.model, "student", variant.model)
        students.backbone.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
        before = {k: v.clone() for k, v in variant.model.state_dict().items()}
        variant.run()
        # 1 source and 2 target images; with SADA, 2 whole ones beside
        expected = {"teacher": [2], "teacher_seg": [2], "mic_sequential": [1, 2], "mic_sada": [5]}
        assert seen == expected.get(name, [3]), name
        has_pixels = getattr(students, "sem_seg_head", None) is not None
        assert has_pixels == name.endswith("_seg")
        steps = {"num_steps"} & before.keys()
        assert all(torch.equal(v, variant.model.state_dict()[k]) for k, v in before.items() if k not in steps), name
        if name == "mic":
            variant.run()
            assert variant.model.steps == 2 or variant.model.state_dict()["num_steps"] == 2
    assert all(set(floor) <= set(TITLES) for floor in FLOORS.values())


def test_batches_are_those_of_the_data_sets_or_made_up(cfg):
    real, origin = make_batches(cfg, 2)
    assert "source_train" in origin and len(real) == 2
    for batch in real:
        assert [x["domain"] for x in batch] == ["source", "target", "target"]
        assert all(len(x["instances"]) and x["sem_seg"].shape == x["image"].shape[1:] for x in batch)
        assert len(batch[0]["instances"]) == 2  # the labels of the source are true: two boxes an image
    noise, origin = make_batches(cfg, 1, (40, 70))
    assert origin == "noise" and all(x["image"].shape == (3, 40, 70) for x in noise[0])
    for x in synthetic_batch(cfg, (40, 70)):
        boxes = x["instances"].gt_boxes.tensor
        assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all() and (boxes[:, 2] <= 70).all()


def test_random_weights_get_pseudo_boxes(cfg, storage):
    variant = make_variant(cfg, "mic", make_batches(cfg, 1, (64, 96))[0])
    assert variant.model.task("boxes").select["score_threshold"] < 0.8
    found = variant.model.teach([x for x in synthetic_batch(cfg, (64, 96)) if x["domain"] == "target"])
    assert sum(map(len, found["boxes"].boxes)) > 0


def test_peak_memory_holds_weights_and_activations(cfg):
    height, width = 128, 192
    found = memory.peak_memory(cfg, "plain", (height, width), steps=2)
    model = make_variant(cfg, "plain", []).model
    weights = sum(4 * t.numel() for t in model.state_dict().values()) / 2**20
    assert found["weights"] == pytest.approx(weights, rel=0.01)
    # three images' maps of 64 channels at half the size; the net keeps several such sets, and not hundreds
    maps = 3 * 64 * height * width / 4 * 4 / 2**20
    assert 3 * weights + 2 * maps < found["peak"] < 4 * weights + 40 * maps, (found, maps)


def test_the_tool_writes_what_it_measured(folder, monkeypatch, capsys):
    out = folder / "out"
    arguments = ["--config-file", folder / "config.yaml", "--repeats", 1, "--only", "mic_sada", "mic", "--no-memory"]
    run_tool_here(
        "benchmark.py", *arguments, "--eval-images", 2, "--output", out, "SOLVER.IMS_PER_BATCH", "2",
        monkeypatch=monkeypatch,
    )  # fmt: skip
    found = json.loads((out / "benchmark.json").read_text())
    steps, printed = found["steps"], capsys.readouterr().out
    assert steps["source_images"] == steps["target_images"] == 2
    assert set(steps["seconds"]) == {"plain", "teacher", "mic", "mic_sada"}
    s = {k: v[0] for k, v in steps["seconds"].items()}
    assert steps["ratios"]["mic"] == pytest.approx(s["mic"] / (s["plain"] + s["teacher"]))
    assert list(steps["parts_ms"]) == list(timing.PARTS)
    assert all(v > 0 for v in steps["parts_ms"].values())
    assert found["data"]["evaluation"]["images"] == 2 and found["data"]["loader_images_per_second"] > 0
    for text in ("(c) MIC step", "x floor", "mask and colour", "loader alone", "evaluation"):
        assert text in printed


def test_the_tool_compares_the_steps_of_configs(folder, monkeypatch, capsys):
    wider = {**KEYS, "MODEL__FPN__OUT_CHANNELS": 64}
    write_config(folder / "wider.yaml", tiny_config(folder, **wider))
    run_tool_here(
        "benchmark.py", "--config-file", folder / "config.yaml", "--compare", folder / "wider.yaml", "--repeats", 2,
        "--size", 64, 96, "--output", folder / "compared", monkeypatch=monkeypatch,
    )  # fmt: skip
    found = json.loads((folder / "compared" / "benchmark.json").read_text())
    assert found["image_size"] == [64, 96]
    first, second = found["compare"].values()
    # the FPN's four 1 x 1 and four 3 x 3 convolutions without biases, each with a GroupNorm
    lateral, output, norms = (64 + 128 + 256 + 512) * (64 - 32), 4 * 9 * (64**2 - 32**2), 8 * 2 * (64 - 32)
    assert second["backbone_parameters"] - first["backbone_parameters"] == lateral + output + norms
    for row in (first, second):
        assert row["peak_mib"] > 4 * 2 * row["parameters"] / 2**20, "weights of student and teacher"
    assert first["ratio"] == 1 and second["ratio"] > 0 and second["parameters"] > first["parameters"]
    assert "x first" in capsys.readouterr().out


def test_the_picture(tmp_path):
    points = [
        {"size": [h, 2 * h], "batch": b, "mic_ms": 2.0 * h * b, "floor_ms": 1.9 * h * b, "ratio": 2 / 1.9}
        for h in (64, 128) for b in (1, 2)
    ]  # fmt: skip
    plot_sweep(points, tmp_path / "benchmark.png")
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_repeat_is_refused(folder, monkeypatch):
    message = refusal_here(
        "benchmark.py", "--config-file", folder / "config.yaml", "--repeats", 0, monkeypatch=monkeypatch
    )
    assert "--repeats is 0" in message
