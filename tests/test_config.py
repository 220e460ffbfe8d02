"""Settings that cannot work are refused with the key's name; shipped configs and presets load."""

import re
from pathlib import Path

import pytest
from detectron2.config import get_cfg

from helpers.models import tiny_cfg
from mic_det import add_mic_config
from mic_det.config import validate_mic_config
from mic_det.config.docs import page
from mic_det.config.keys import KEYS
from mic_det.engine.setup import load_config
from mic_det.errors import ConfigError

CONFIGS = Path(__file__).parents[1] / "configs"

WRONG = [
    ("MODEL.MIC.TEACHER.ALPHA", [1.0, -0.1], r"\[0, 1\)"),
    ("MODEL.MIC.MASK.RATIO", [1.0, -0.01, 1.5], r"\[0, 1\)"),
    ("MODEL.MIC.PSEUDO_BOXES.SCORE_THRESHOLD", [-0.1, 1.1], r"\[0, 1\]"),
    ("MODEL.MIC.PSEUDO_BOXES.IGNORE_SCORE", [-0.1, 1.1, 0.8], r"\[0, 1\]|smaller value"),
    ("MODEL.MIC.PSEUDO_BOXES.NMS_THRESHOLD", [-0.1, 1.1], r"\[0, 1\]"),
    ("MODEL.MIC.PSEUDO_BOXES.SCORE_THRESHOLD_PER_CLASS", [(0.5, 0.5), (0.5, 0.5, 2.0)], "NUM_CLASSES|0, 1"),
    ("MODEL.MIC.MASK.BLOCK_SIZE", [-3], "at least 0"),
    ("MODEL.MIC.MASK.BLOCK_SHARE", [0.0, 1.5], r"\(0, 1\]|above 0"),
    ("MODEL.MIC.MASK.PROB", [-0.1, 1.1], r"\[0, 1\]"),
    ("MODEL.MIC.PSEUDO_BOXES.ADAPT", ["shares"], "'none', 'class_shares'"),
    ("MODEL.MIC.PSEUDO_BOXES.ADAPT_BOUNDS", [(0.9, 0.3), (0.3,), (-0.1, 0.5), (0.5, 1.1)], "low"),
    ("MODEL.MIC.PSEUDO_BOXES.ADAPT_MOMENTUM", [1.0], r"\[0, 1\)"),
    ("MODEL.MIC.PSEUDO_BOXES.MAX_PER_IMAGE", [0], "at least 1"),
    ("MODEL.MIC.PSEUDO_BOXES.MIN_SIZE", [-1.0], "at least 0"),
    ("MODEL.MIC.BURN_IN_STEPS", [-1], "at least 0"),
    ("MODEL.MIC.TEACHER.INPUT_SIZE", [-1], "at least 0"),
    ("MODEL.MIC.CONSISTENCY.RAMP_UP_STEPS", [-1], "at least 0"),
    ("MODEL.MIC.CONSISTENCY.WEIGHT", [-1.0], "at least 0"),
    ("MODEL.MIC.CONSISTENCY.ROI_BOX_REG_WEIGHT", [-0.5], "at least 0"),
    ("SOLVER.IMS_PER_BATCH_TARGET", [0], "at least 1"),
    ("SOLVER.ACCUMULATE_STEPS", [0], "at least 1"),
    ("SOLVER.CHECKPOINT_KEEP", [-1], "at least 0"),
    ("SOLVER.CHECKPOINT_PERIOD", [0, -5], "at least 1"),
    ("MODEL.MIC.MASK.DOMAINS", ["targets", ""], "'target', 'source', 'both'"),
    ("MODEL.MIC.CONSISTENCY.QUALITY", ["mean"], "'teacher', 'student', 'published', 'none'"),
    ("MODEL.MIC.CONSISTENCY.TARGETS", ["softer"], "'hard', 'soft'"),
    ("MODEL.MIC.CONSISTENCY.EMPTY_IMAGES", ["keep"], "'skip', 'background'"),
    ("MODEL.MIC.EVALUATE", ["neither"], "'teacher', 'student'"),
    ("MODEL.TORCHVISION.NORM", ["GN"], "'FrozenBN', 'BN'"),
    ("SOLVER.AMP.DTYPE", ["float64"], "'float16', 'bfloat16'"),
    ("SOLVER.NON_FINITE.SKIP_STEPS", [-1], "at least 0"),
    ("SOLVER.NON_FINITE.MAX_OVERFLOWS", [-1], "at least 0"),
    ("SOLVER.REFERENCE_WORLD_SIZE", [-2], "at least 0"),
    ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", ["global"], "'value', 'norm'"),
    ("MODEL.MIC.MONITOR.PATIENCE", [-1], "at least 0"),
    ("MODEL.MIC.MONITOR.ONE_CLASS_STEPS", [-1], "at least 0"),
    ("MODEL.MIC.MONITOR.BOXES_RATIO", [-0.5], "at least 0"),
    ("MODEL.MIC.MONITOR.PIXEL_QUALITY", [1.5], r"\[0, 1\]"),
    ("MODEL.MIC.STRONG_AUG.JITTER_STRENGTH", [0.6, -0.1], "0.5"),
    ("MODEL.MIC.STRONG_AUG.JITTER_STRENGTHS", [(0.4,), (0.4, 0.4, 0.4, 0.6), (0.4, 0.4, -0.1, 0.1)], "hue"),
    ("MODEL.MIC.STRONG_AUG.GRAYSCALE_PROB", [1.1], r"\[0, 1\]"),
    ("MODEL.MIC.STRONG_AUG.ERASE_PROB", [-0.1], r"\[0, 1\]"),
    ("MODEL.MIC.STRONG_AUG.ERASE_AREA", [(0.0, 0.2), (0.3, 0.2), (0.5, 1.5), (0.2,)], "low"),
    ("MODEL.MIC.STRONG_AUG.BLUR_SIGMA", [(0.0, 1.0), (2.0, 1.0), (1.0,)], "low"),
    ("MODEL.MIC.STRONG_AUG.BLUR_PROB", [1.5], r"\[0, 1\]"),
    ("MODEL.FCOS.NUM_CLASSES", [0], "at least 1"),
    ("MODEL.FCOS.NUM_CONVS", [0], "at least 1"),
    ("MODEL.FCOS.PRIOR_PROB", [0.0, 1.0], r"\(0, 1\)"),
    ("MODEL.FCOS.CENTER_SAMPLING_RADIUS", [0.0], "above 0"),
    ("MODEL.FCOS.FOCAL_LOSS_ALPHA", [1.5], r"\[0, 1\]"),
    ("MODEL.FCOS.FOCAL_LOSS_GAMMA", [-1.0], "at least 0"),
    ("MODEL.FCOS.SCORE_THRESH_TEST", [2.0], r"\[0, 1\]"),
    ("MODEL.FCOS.TOPK_CANDIDATES_TEST", [0], "at least 1"),
    ("MODEL.FCOS.NMS_THRESH_TEST", [-0.5], r"\[0, 1\]"),
    ("MODEL.MIT.NAME", ["b6", ""], "one of 'b0'"),
    ("MODEL.MIT.DROP_PATH", [1.0, -0.1], r"\[0, 1\)"),
    ("MODEL.DAFORMER_HEAD.DILATIONS", [(), (0, 6)], "at least 1|a list of values"),
    ("MODEL.DAFORMER_HEAD.DROPOUT", [1.0, -0.1], r"\[0, 1\)"),
    ("DATALOADER.RARE_CLASSES.TEMPERATURE", [0.0, -1.0], "above 0"),
    ("DATALOADER.RARE_CLASSES.MIN_PIXELS", [-1], "at least 0"),
    ("DATALOADER.RARE_CLASSES.MIN_CROP_PIXELS", [-1], "at least 0"),
    ("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", [0.0, 1.5], r"\(0, 1\]"),
    ("INPUT.MIN_SIZE_TRAIN_TARGET", [(-3,)], "at least 0"),
    ("INPUT.MAX_SIZE_TRAIN_TARGET", [-1], "at least 0"),
    ("MODEL.MIC.FEATURE_DISTANCE.WEIGHT", [-0.1], "at least 0"),
    ("MODEL.MIC.FEATURE_DISTANCE.CLASSES", [(), (-1,)], "a list of values"),
    ("MODEL.MIC.FEATURE_DISTANCE.MIN_RATIO", [1.1], r"\[0, 1\]"),
    ("SOLVER.OPTIMIZER", ["Adam"], "one of 'SGD', 'AdamW'"),
    ("SOLVER.BETAS", [(0.9,), (0.9, 1.0)], "2 values"),
    ("SOLVER.HEAD_LR_FACTOR", [0.0], "above 0"),
    ("SOLVER.POLY_LR_POWER", [0.0], "above 0"),
    ("MODEL.HRDA.CONTEXT_SCALE", [0, 3], "one of 1, 2, 4"),
    ("MODEL.HRDA.DETAIL_SIZE", [(512,), (500, 512), (0, 32)], "multiples of 32"),
    ("MODEL.HRDA.DETAIL_WEIGHT", [1.0, -0.1], r"\[0, 1\)"),
    ("MODEL.SLIDING.SIZE", [(512,), (0, 4)], "two whole numbers"),
    ("MODEL.SLIDING.STRIDE", [(512,), (0, 4)], "two whole numbers"),
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
def test_shipped_configs_load_and_have_no_old_names(file, caplog):
    load_config(str(file), ["MODEL.DEVICE", "cpu"])
    assert "old name" not in caplog.text


def flat(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


ENABLED = {f"ALIGNMENT.{part}.ENABLED": True for part in ("IMAGE", "INSTANCE", "AGREEMENT")}
PRESETS = {
    "mean_teacher": {"BURN_IN_STEPS": 2000, "TEACHER.ALPHA": 0.9996, "MASK.RATIO": 0.0},
    "sada": ENABLED,
    "sada_published": {
        **ENABLED, "EVALUATE": "student", "ALIGNMENT.AGREEMENT.WEIGHT": 1.0,
        "ALIGNMENT.AGREEMENT.GRL_WEIGHT": -0.1, "ALIGNMENT.INSTANCE.REGIONS": "published",
    },
    "semseg_published": {
        "EVALUATE": "student", "TEACHER.ALPHA": 0.999, "SEM_SEG.MASK.BLOCK_SIZE": 64, "SEM_SEG.MIX_WEIGHT": 1.0,
    },
    "detector_published": {
        "MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717], "MODEL.RPN.BOUNDARY_THRESH": 0,
        "MODEL.RPN.SMOOTH_L1_BETA": 0.1111111111, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 256,
        "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 1.0, "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign", "SOLVER.BIAS_LR_FACTOR": 2.0, "SOLVER.WEIGHT_DECAY_BIAS": 0.0,
        "SOLVER.WARMUP_ITERS": 500, "SOLVER.WARMUP_FACTOR": 0.3333333333,
    },
    "no_mic": {"EVALUATE": "student", "CONSISTENCY.WEIGHT": 0.0},
    "source_strong": {"EVALUATE": "student", "STRONG_AUG.ON_SOURCE": True, "CONSISTENCY.WEIGHT": 0.0},
    "ema_only": {"CONSISTENCY.WEIGHT": 0.0},
    "strong_start": {
        "STRONG_AUG.ON_SOURCE": True, "STRONG_AUG.JITTER_STRENGTHS": (0.4, 0.4, 0.4, 0.1),
        "STRONG_AUG.GRAYSCALE_PROB": 0.2, "STRONG_AUG.ERASE_PROB": 0.5, "CONSISTENCY.WEIGHT": 0.0,
        "SEM_SEG.WEIGHT": 0.0,
    },
    "mic_strong": {
        "TEACHER.ALPHA": 0.99, "PSEUDO_BOXES.ADAPT": "class_shares", "PSEUDO_BOXES.IGNORE_SCORE": 0.1,
        "MASK.PROB": 0.5, "STRONG_AUG.ON_SOURCE": True, "STRONG_AUG.COLOR_TRANSFER_PROB": 0.75,
        "CONSISTENCY.RPN_BOX_REG_WEIGHT": 1.0, "CONSISTENCY.ROI_BOX_REG_WEIGHT": 1.0,
    },
    "source_free": {
        "MODEL.META_ARCHITECTURE": "MIC", "TEACHER.ALPHA": 0.999, "TEACHER.STATISTICS_IMAGES": 200,
        "PSEUDO_BOXES.IGNORE_SCORE": 0.3, "MASK.PROB": 0.5, "CONSISTENCY.RPN_BOX_REG_WEIGHT": 1.0,
        "CONSISTENCY.ROI_BOX_REG_WEIGHT": 1.0, "TEST.LABEL_FREE.ENABLED": True, "TEST.LABEL_FREE.PERIOD": 250,
        "TEST.LABEL_FREE.MAX_IMAGES": 40,
    },
    "mic_published": {"EVALUATE": "student", "MASK.BLOCK_SIZE": 32, "CONSISTENCY.QUALITY": "published"},
    "daformer": {
        "MODEL.META_ARCHITECTURE": "MIC", "MODEL.BACKBONE.NAME": "build_mit_backbone", "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53], "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
        "MODEL.SEM_SEG_HEAD.NAME": "DAFormerHead",
        "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 19, "MODEL.SEM_SEG_HEAD.CONVS_DIM": 256, "MODEL.SEM_SEG_HEAD.NORM": "BN",
        "STUDENT": "SemanticSegmentor", "EVALUATE": "student", "TEACHER.ALPHA": 0.999, "SEM_SEG.WEIGHT": 0.0,
        "SEM_SEG.MIX_WEIGHT": 1.0, "FEATURE_DISTANCE.WEIGHT": 0.005, "INPUT.FORMAT": "RGB", "INPUT.CROP.ENABLED": True,
        "INPUT.CROP.TYPE": "absolute", "INPUT.CROP.SIZE": [512, 512], "INPUT.CROP.AFTER_RESIZE": True,
        "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": 0.75, "DATALOADER.SAMPLER_TRAIN": "RareClassSampler",
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS": False, "SOLVER.OPTIMIZER": "AdamW", "SOLVER.BASE_LR": 6e-5,
        "SOLVER.HEAD_LR_FACTOR": 10.0, "SOLVER.WEIGHT_DECAY": 0.01, "SOLVER.LR_SCHEDULER_NAME": "WarmupPolyLR",
        "SOLVER.WARMUP_ITERS": 1500, "SOLVER.WARMUP_FACTOR": 1e-6, "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.IMS_PER_BATCH_TARGET": 2,
    },
}  # fmt: skip
PRESETS["pretrained_adamw"] = {
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53], "MODEL.PIXEL_STD": [58.395, 57.12, 57.375], "INPUT.FORMAT": "RGB",
    "SOLVER.OPTIMIZER": "AdamW", "SOLVER.BASE_LR": 1e-4, "SOLVER.WEIGHT_DECAY": 0.05,
}  # fmt: skip
PRESETS["mic_daformer"] = {**PRESETS["daformer"], "SEM_SEG.MASK.BLOCK_SIZE": 32}
del PRESETS["mic_daformer"]["SEM_SEG.WEIGHT"]  # 1 is the default
PRESETS["hrda"] = {
    **PRESETS["daformer"], "MODEL.BACKBONE.NAME": "build_hrda_backbone", "MODEL.SEM_SEG_HEAD.NAME": "HRDAHead",
    "STUDENT": "SlidingSegmentor", "MODEL.SLIDING.SIZE": (1024, 1024), "MODEL.SLIDING.STRIDE": (512, 512),
    "INPUT.CROP.SIZE": [1024, 1024], "DATALOADER.RARE_CLASSES.MIN_CROP_PIXELS": 6000,
    "SOLVER.SEQUENTIAL_BACKWARD": True,
}  # fmt: skip
PRESETS["mic_hrda"] = {**PRESETS["hrda"], "SEM_SEG.MASK.BLOCK_SIZE": 64}
del PRESETS["mic_hrda"]["SEM_SEG.WEIGHT"]
PRESETS["dacs"] = {
    "MODEL.META_ARCHITECTURE": "MIC", "EVALUATE": "student", "TEACHER.ALPHA": 0.99, "SEM_SEG.WEIGHT": 0.0,
    "SEM_SEG.MIX_WEIGHT": 1.0,
}  # fmt: skip
PRESETS["mic_dacs"] = {**PRESETS["dacs"], "SEM_SEG.MASK.BLOCK_SIZE": 32}
del PRESETS["mic_dacs"]["SEM_SEG.WEIGHT"]
PRESETS["mic_adverse"] = {"MASK.DOMAINS": "separate", "STRONG_AUG.ON_MASKED": False}
PRESETS["sdat"] = {
    "MODEL.META_ARCHITECTURE": "MIC", "STUDENT": "ImageClassifier", "EVALUATE": "student", "CONSISTENCY.WEIGHT": 0.0,
    "MCC.WEIGHT": 1.0, "CDAN.WEIGHT": 1.0, "SAM.RHO": 0.02, "SOLVER.NESTEROV": True, "SOLVER.BASE_LR": 0.0002,
    "SOLVER.HEAD_LR_FACTOR": 10.0, "SOLVER.WEIGHT_DECAY": 0.001, "SOLVER.WEIGHT_DECAY_NORM": 0.001,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupInverseLR", "SOLVER.WARMUP_ITERS": 0,
}  # fmt: skip
PRESETS["mic_sdat"] = {
    **PRESETS["sdat"], "MASK.BLOCK_SIZE": 64, "MASK.RATIO": 0.7, "STRONG_AUG.JITTER_PROB": 1.0,
    "STRONG_AUG.BLUR_PROB": 1.0,
}  # fmt: skip
del PRESETS["mic_sdat"]["CONSISTENCY.WEIGHT"]


@pytest.mark.parametrize("file", sorted((CONFIGS / "_methods").glob("*.yaml")), ids=lambda p: p.stem)
def test_presets_change_what_they_name_and_nothing_else(file, tmp_path):
    joined = tmp_path / "joined.yaml"
    defaults = get_cfg()
    add_mic_config(defaults)
    joined.write_text(f"VERSION: 2\n_BASE_: ['{file}']\n")
    before, after = dict(flat(defaults)), dict(flat(load_config(str(joined), ["MODEL.DEVICE", "cuda:0"])))
    changed = {k.replace("MODEL.MIC.", ""): v for k, v in after.items() if v != before[k] and k != "MODEL.DEVICE"}
    assert changed == PRESETS[file.stem]


def test_ablations_of_a_single_key_set_what_their_table_says():
    """Each ``KEY VALUE`` of the table in configs/_methods/README.md is one key, by its current name."""
    text = (CONFIGS / "_methods" / "README.md").read_text(encoding="utf-8")
    pairs = re.findall(r"^\|.*\| `(MODEL[\w.]+) (\S+)`", text, flags=re.MULTILINE)
    assert len(pairs) == 18
    defaults = dict(flat(load_config("", ["MODEL.DEVICE", "cpu"])))
    for key, value in pairs:
        after = dict(flat(load_config("", ["MODEL.DEVICE", "cpu", key, value])))
        changed = {k: str(v) for k, v in after.items() if v != defaults[k]}
        assert changed == ({} if (key, value) == ("MODEL.MIC.CONSISTENCY.QUALITY", "teacher") else {key: value})


def test_every_key_of_ours_is_in_the_table_and_fits_its_own_rule():
    plain, cfg = get_cfg(), get_cfg()
    add_mic_config(cfg)
    added = dict(flat(cfg)).keys() - dict(flat(plain)).keys()
    mappings = {"DATASETS.CUSTOM", "MODEL.MIC.LABELLER.CLASSES"}
    assert added == KEYS.keys() - mappings, "an empty mapping is no leaf"
    for key in KEYS.values():
        assert key.check.allows(key.default) and key.doc.endswith("."), key.name
        assert not key.check.allows(object()), key.name


def test_two_configs_share_no_default():
    first, second = get_cfg(), get_cfg()
    add_mic_config(first)
    add_mic_config(second)
    first.merge_from_list(["DATASETS.CUSTOM", {"mine": {"IMAGES": "x"}}])
    first.DATASETS.CUSTOM["other"] = 1
    assert not second.DATASETS.CUSTOM and not KEYS["DATASETS.CUSTOM"].default


def test_the_page_of_keys_is_current():
    """Made again by ``python -m mic_det.config.docs docs/configuration.md``."""
    assert (CONFIGS.parent / "docs" / "configuration.md").read_text(encoding="utf-8") == page()
    assert all(f"| `{name}` | `" in page() for name in KEYS)


def test_a_config_without_our_keys_is_told_what_to_call():
    with pytest.raises(ConfigError, match="add_mic_config"):
        validate_mic_config(get_cfg())


@pytest.mark.parametrize("section", ["MODEL.MIC.MASK", "MODEL.MIC.SEM_SEG.MASK"])
def test_a_patch_size_in_pixels_and_another_share_are_refused_together(section):
    pixels, share = [f"{section}.BLOCK_SIZE", 8], [f"{section}.BLOCK_SHARE", 0.1]
    with pytest.raises(ConfigError, match=f"{section}.BLOCK_SIZE is 8 pixels.*BLOCK_SHARE 0.1.*set BLOCK_SIZE 0"):
        load_config("", pixels + share)
    for alone in (pixels, share):
        load_config("", alone)


def test_erasing_is_for_source_images_that_no_classifier_compares():
    erase = ["MODEL.MIC.STRONG_AUG.ERASE_PROB", 0.5]
    with pytest.raises(ConfigError, match="ERASE_PROB is 0.5, but MODEL.MIC.STRONG_AUG.ON_SOURCE is False"):
        load_config("", erase)
    erase += ["MODEL.MIC.STRONG_AUG.ON_SOURCE", True]
    load_config("", erase)
    with pytest.raises(ConfigError, match="would reveal the domain .*: set ERASE_PROB 0.0"):
        load_config("", erase + ["MODEL.MIC.ALIGNMENT.IMAGE.ENABLED", True])


def test_colour_transfer_needs_images_of_both_domains():
    transfer = ["MODEL.META_ARCHITECTURE", "MIC", "MODEL.MIC.STRONG_AUG.COLOR_TRANSFER_PROB", 0.5]
    load_config("", transfer)
    for named, missing in (("TRAIN", "TARGET"), ("TARGET", "TRAIN")):
        with pytest.raises(ConfigError, match=f"COLOR_TRANSFER_PROB is 0.5, but DATASETS.{missing} is empty"):
            load_config("", [*transfer, f"DATASETS.{named}", "('minicity_clear_train',)"])


def test_a_preset_after_a_benchmark_wins(tmp_path):
    joined = tmp_path / "joined.yaml"
    bases = [str(CONFIGS / "minicity" / "mic.yaml"), str(CONFIGS / "_methods" / "mean_teacher.yaml")]
    joined.write_text(f"VERSION: 2\n_BASE_: {bases}\n")
    cfg = load_config(str(joined))
    assert cfg.MODEL.MIC.BURN_IN_STEPS == 2000 and cfg.DATASETS.TARGET == ("minicity_foggy_train",)


@pytest.mark.parametrize("name", ["../../elsewhere", "..", "/tmp/x", "a/", "a//b", "a/./b", "a\\..\\b"])
def test_names_of_sets_stay_in_the_folder_of_results(name):
    with pytest.raises(ConfigError, match="is also the name of a folder for its results"):
        load_config("", ["DATASETS.CUSTOM", {name: {"IMAGES": "x"}}])
    load_config("", ["DATASETS.CUSTOM", {"fog..val/2": {"IMAGES": "x"}}])


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
