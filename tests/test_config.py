"""Settings that cannot work are refused with the key's name; shipped configs and presets load."""

from pathlib import Path

import pytest
from detectron2.config import get_cfg

from conftest import tiny_cfg
from mic_det import add_mic_config
from mic_det.config import ConfigError
from mic_det.config_checks import validate_mic_config
from mic_det.engine.setup import load_config

CONFIGS = Path(__file__).parents[1] / "configs"

WRONG = [
    ("MODEL.MIC.TEACHER.ALPHA", [1.0, -0.1], r"\[0, 1\)"),
    ("MODEL.MIC.MASK.RATIO", [1.0, -0.01, 1.5], r"\[0, 1\)"),
    ("MODEL.MIC.PSEUDO_BOXES.SCORE_THRESHOLD", [-0.1, 1.1], r"\[0, 1\]"),
    ("MODEL.MIC.PSEUDO_BOXES.NMS_THRESHOLD", [-0.1, 1.1], r"\[0, 1\]"),
    ("MODEL.MIC.PSEUDO_BOXES.SCORE_THRESHOLD_PER_CLASS", [(0.5, 0.5), (0.5, 0.5, 2.0)], "NUM_CLASSES|0, 1"),
    ("MODEL.MIC.MASK.BLOCK_SIZE", [0, -3], "at least 1"),
    ("MODEL.MIC.PSEUDO_BOXES.MAX_PER_IMAGE", [0], "at least 1"),
    ("MODEL.MIC.PSEUDO_BOXES.MIN_SIZE", [-1.0], "at least 0"),
    ("MODEL.MIC.BURN_IN_STEPS", [-1], "at least 0"),
    ("MODEL.MIC.TEACHER.INPUT_SIZE", [-1], "at least 0"),
    ("MODEL.MIC.CONSISTENCY.RAMP_UP_STEPS", [-1], "at least 0"),
    ("MODEL.MIC.CONSISTENCY.WEIGHT", [-1.0], "at least 0"),
    ("MODEL.MIC.CONSISTENCY.ROI_LOC_WEIGHT", [-0.5], "at least 0"),
    ("SOLVER.IMS_PER_BATCH_TARGET", [0], "at least 1"),
    ("SOLVER.ACCUMULATE_STEPS", [0], "at least 1"),
    ("SOLVER.CHECKPOINT_KEEP", [-1], "at least 0"),
    ("SOLVER.CHECKPOINT_PERIOD", [0, -5], "at least 1"),
    ("MODEL.MIC.MASK.DOMAINS", ["targets", ""], "'target', 'source', 'both'"),
    ("MODEL.MIC.CONSISTENCY.QUALITY", ["mean"], "'teacher', 'student', 'published', 'none'"),
    ("MODEL.MIC.CONSISTENCY.EMPTY_IMAGES", ["keep"], "'skip', 'background'"),
    ("MODEL.MIC.EVALUATE", ["neither"], "'teacher', 'student'"),
    ("MODEL.TORCHVISION.NORM", ["GN"], "'FrozenBN', 'BN'"),
    ("SOLVER.AMP.DTYPE", ["float64"], "'float16', 'bfloat16'"),
    ("SOLVER.NON_FINITE.SKIP_STEPS", [-1], "at least 0"),
    ("SOLVER.NON_FINITE.MAX_OVERFLOWS", [-1], "at least 0"),
    ("SOLVER.REFERENCE_WORLD_SIZE", [-2], "at least 0"),
    ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", ["global"], "'value', 'norm'"),
    ("MODEL.MIC.WATCH.STEPS", [-1], "at least 0"),
    ("MODEL.MIC.WATCH.ONE_CLASS_STEPS", [-1], "at least 0"),
    ("MODEL.MIC.WATCH.BOXES_RATIO", [-0.5], "at least 0"),
    ("MODEL.MIC.WATCH.PIXEL_QUALITY", [1.5], r"\[0, 1\]"),
    ("MODEL.MIC.COLOR.JITTER_STRENGTH", [0.6, -0.1], "0.5"),
    ("MODEL.MIC.COLOR.BLUR_SIGMA", [(0.0, 1.0), (2.0, 1.0), (1.0,)], "low"),
    ("MODEL.MIC.COLOR.BLUR_PROB", [1.5], r"\[0, 1\]"),
]


@pytest.mark.parametrize("key, value, allowed", [(k, v, a) for k, values, a in WRONG for v in values])
def test_refusals_name_the_key_and_what_is_allowed(key, value, allowed):
    cfg = tiny_cfg()
    cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError, match=allowed) as error:
        validate_mic_config(cfg)
    assert key in str(error.value)


def test_the_defaults_are_accepted():
    cfg = get_cfg()
    add_mic_config(cfg)
    validate_mic_config(cfg)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("[!_]*/[!Ba]*.yaml")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_shipped_configs_load(file):
    load_config(str(file), ["MODEL.DEVICE", "cpu"])


def flat(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


ENABLED = {f"ALIGNMENT.{part}.ENABLED": True for part in ("IMAGE", "INSTANCE", "CONSISTENCY")}
PRESETS = {
    "mean_teacher": {"BURN_IN_STEPS": 2000, "TEACHER.ALPHA": 0.9996, "MASK.RATIO": 0.0},
    "no_mask": {"MASK.RATIO": 0.0}, "mask_source": {"MASK.DOMAINS": "source"}, "mask_both": {"MASK.DOMAINS": "both"},
    "quality_none": {"CONSISTENCY.QUALITY": "none"}, "quality_student": {"CONSISTENCY.QUALITY": "student"},
    "quality_teacher": {}, "ratio_0.3": {"MASK.RATIO": 0.3}, "ratio_0.7": {"MASK.RATIO": 0.7},
    "block_16": {"MASK.BLOCK_SIZE": 16}, "block_64": {"MASK.BLOCK_SIZE": 64},
    "sada": ENABLED,
    "sada_published": {
        **ENABLED, "EVALUATE": "student", "ALIGNMENT.CONSISTENCY.WEIGHT": 1.0,
        "ALIGNMENT.CONSISTENCY.REVERSAL_WEIGHT": -0.1, "ALIGNMENT.INSTANCE.REGIONS": "published",
    },
    "semseg_published": {"EVALUATE": "student", "TEACHER.ALPHA": 0.999, "SEM_SEG.MIX_WEIGHT": 1.0},
    "detector_published": {
        "MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717], "MODEL.RPN.BOUNDARY_THRESH": 0,
        "MODEL.RPN.SMOOTH_L1_BETA": 0.1111111111, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 256,
        "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 1.0, "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign", "SOLVER.BIAS_LR_FACTOR": 2.0, "SOLVER.WEIGHT_DECAY_BIAS": 0.0,
        "SOLVER.WARMUP_ITERS": 500, "SOLVER.WARMUP_FACTOR": 0.3333333333,
    },
    "no_mic": {"EVALUATE": "student", "CONSISTENCY.WEIGHT": 0.0},
    "source_strong": {"EVALUATE": "student", "COLOR.SOURCE": True, "CONSISTENCY.WEIGHT": 0.0},
    "ema_only": {"CONSISTENCY.WEIGHT": 0.0},
    "align_dann": {"ALIGNMENT.SCHEDULE": "dann"},
    "mic_published": {"EVALUATE": "student", "CONSISTENCY.QUALITY": "published"},
}  # fmt: skip


@pytest.mark.parametrize("file", sorted((CONFIGS / "_methods").glob("*.yaml")), ids=lambda p: p.stem)
def test_presets_change_what_they_name_and_nothing_else(file, tmp_path):
    joined = tmp_path / "joined.yaml"
    defaults = get_cfg()
    add_mic_config(defaults)
    joined.write_text(f"VERSION: 2\n_BASE_: ['{file}']\n")
    before, after = dict(flat(defaults)), dict(flat(load_config(str(joined), ["MODEL.DEVICE", "cuda:0"])))
    changed = {k.replace("MODEL.MIC.", ""): v for k, v in after.items() if v != before[k] and k != "MODEL.DEVICE"}
    assert changed == PRESETS[file.stem]


def test_a_preset_after_a_benchmark_wins(tmp_path):
    joined = tmp_path / "joined.yaml"
    bases = [str(CONFIGS / "minicity" / "mic.yaml"), str(CONFIGS / "_methods" / "mask_both.yaml")]
    joined.write_text(f"VERSION: 2\n_BASE_: {bases}\n")
    cfg = load_config(str(joined))
    assert cfg.MODEL.MIC.MASK.DOMAINS == "both" and cfg.DATASETS.TARGET == ("minicity_foggy_train",)


@pytest.mark.parametrize("name", ["../../elsewhere", "..", "/tmp/x", "a/", "a//b", "a/./b", "a\\..\\b"])
def test_names_of_sets_stay_in_the_folder_of_results(name):
    with pytest.raises(ConfigError, match="becomes that of a folder for its results"):
        load_config("", ["DATASETS.DECLARED", {name: {"IMAGES": "x"}}])
    load_config("", ["DATASETS.DECLARED", {"fog..val/2": {"IMAGES": "x"}}])


def test_output_dir_is_a_folder_of_this_machine(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("RUNS", "/disk/runs")
    for text, folder in (
        ("~/a", "/home/someone/a"),
        ("$RUNS/b", "/disk/runs/b"),
        ("${UNKNOWN}/c", "${UNKNOWN}/c"),
        ("./d", "./d"),
    ):
        assert load_config("", ["OUTPUT_DIR", text]).OUTPUT_DIR == folder
    for text in ("", " ", "http://host.example/a", "file:///tmp/a", "s3://bucket/a"):
        with pytest.raises(ConfigError, match="OUTPUT_DIR is .*name a folder of this machine"):
            load_config("", ["OUTPUT_DIR", text])
