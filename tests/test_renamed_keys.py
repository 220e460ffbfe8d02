"""Old names of keys go on working, wherever a config is given, with one warning; both names of a key are an error."""

import json
import pickle
import re

import pytest
import yaml
from detectron2.config import CfgNode, get_cfg

from helpers.data import write_config
from mic_det import add_mic_config
from mic_det.checkpoint.run_settings import changed_settings, config_settings
from mic_det.config import (
    current_settings,
    flat_keys,
    validate_mic_config,
    value_of,
)
from mic_det.config.renamed import RENAMED
from mic_det.engine.setup import load_config
from mic_det.errors import ConfigError

pytestmark = pytest.mark.usefixtures("clean_catalogs")

MIC = "MODEL.MIC."
# by hand: name in earlier versions, name, a value that is not the default
NAMES = [
    (MIC + "ALIGNMENT.CONSISTENCY.ENABLED", MIC + "ALIGNMENT.AGREEMENT.ENABLED", True),
    (MIC + "ALIGNMENT.CONSISTENCY.WEIGHT", MIC + "ALIGNMENT.AGREEMENT.WEIGHT", 0.75),
    (MIC + "ALIGNMENT.CONSISTENCY.REVERSAL_WEIGHT", MIC + "ALIGNMENT.AGREEMENT.GRL_WEIGHT", -0.5),
    (MIC + "ALIGNMENT.IMAGE.REVERSAL_WEIGHT", MIC + "ALIGNMENT.IMAGE.GRL_WEIGHT", 0.5),
    (MIC + "ALIGNMENT.INSTANCE.REVERSAL_WEIGHT", MIC + "ALIGNMENT.INSTANCE.GRL_WEIGHT", 0.25),
    (MIC + "COLOR.SOURCE", MIC + "STRONG_AUG.ON_SOURCE", True),
    (MIC + "COLOR.JITTER_STRENGTH", MIC + "STRONG_AUG.JITTER_STRENGTH", 0.125),
    (MIC + "COLOR.JITTER_PROB", MIC + "STRONG_AUG.JITTER_PROB", 0.25),
    (MIC + "COLOR.BLUR_SIGMA", MIC + "STRONG_AUG.BLUR_SIGMA", (0.5, 2.0)),
    (MIC + "COLOR.BLUR_PROB", MIC + "STRONG_AUG.BLUR_PROB", 0.125),
    (MIC + "CONSISTENCY.RPN_LOC_WEIGHT", MIC + "CONSISTENCY.RPN_BOX_REG_WEIGHT", 0.5),
    (MIC + "CONSISTENCY.ROI_LOC_WEIGHT", MIC + "CONSISTENCY.ROI_BOX_REG_WEIGHT", 0.25),
    (MIC + "WATCH.STEPS", MIC + "MONITOR.PATIENCE", 7),
    (MIC + "WATCH.ONE_CLASS_STEPS", MIC + "MONITOR.ONE_CLASS_STEPS", 8),
    (MIC + "WATCH.BOXES_RATIO", MIC + "MONITOR.BOXES_RATIO", 2.5),
    (MIC + "WATCH.PIXEL_QUALITY", MIC + "MONITOR.PIXEL_QUALITY", 0.25),
    ("DATASETS.DECLARED.mine.IMAGES", "DATASETS.CUSTOM.mine.IMAGES", "some/folder"),
    ("MODEL.META_ARCHITECTURE", "MODEL.META_ARCHITECTURE", "MIC"),
    (MIC + "ALIGNMENT.IMAGE.ENABLED", MIC + "ALIGNMENT.IMAGE.ENABLED", True),  # which the agreement needs
    (MIC + "ALIGNMENT.INSTANCE.ENABLED", MIC + "ALIGNMENT.INSTANCE.ENABLED", True),
]
SECTIONS = {
    MIC + "ALIGNMENT.CONSISTENCY": MIC + "ALIGNMENT.AGREEMENT", MIC + "COLOR": MIC + "STRONG_AUG",
    MIC + "WATCH": MIC + "MONITOR", "DATASETS.DECLARED": "DATASETS.CUSTOM",
}  # fmt: skip


def mic_cfg():
    cfg = get_cfg()
    add_mic_config(cfg)
    return cfg


def nested(pairs):
    """Nested dicts of dotted names."""
    tree = {"VERSION": 2}
    for name, value in pairs:
        *parents, last = name.split(".")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = list(value) if isinstance(value, tuple) else value
    return tree


OLD = [(old, "MICRCNN" if value == "MIC" else value) for old, _, value in NAMES]  # as the method was called
EVERYTHING = nested(OLD)


def check(cfg):
    found = {new: value_of(cfg, new) for _, new, _ in NAMES}
    assert found == {new: value for _, new, value in NAMES}


def by_file(tmp_path):
    return load_config(write_config(tmp_path / "c.yaml", EVERYTHING))


def by_base(tmp_path):
    write_config(tmp_path / "base.yaml", EVERYTHING)
    write_config(tmp_path / "middle.yaml", {"_BASE_": "base.yaml"})
    return load_config(write_config(tmp_path / "c.yaml", {"_BASE_": ["middle.yaml"], "VERSION": 2}))


def by_plain_merge_from_file(tmp_path):
    cfg = mic_cfg()
    cfg.merge_from_file(write_config(tmp_path / "c.yaml", EVERYTHING))
    return cfg


def by_command_line(tmp_path):
    pairs = [x for old, value in OLD if "DECLARED" not in old for x in (old, str(value))]
    return load_config("", [*pairs, "DATASETS.DECLARED", {"mine": {"IMAGES": "some/folder"}}])


def by_plain_merge_from_list(tmp_path):
    cfg = mic_cfg()
    pairs = [x for old, value in OLD if "DECLARED" not in old for x in (old, value)]
    cfg.merge_from_list([*pairs, "DATASETS.DECLARED", {"mine": {"IMAGES": "some/folder"}}])
    return cfg


def by_merged_config(tmp_path):
    cfg = mic_cfg()
    cfg.merge_from_other_cfg(CfgNode(EVERYTHING))
    return cfg


def by_clone(tmp_path):
    cfg = pickle.loads(pickle.dumps(mic_cfg().clone()))
    cfg.merge_from_other_cfg(CfgNode(EVERYTHING))
    return cfg


DOORS = [
    by_file, by_base, by_plain_merge_from_file, by_command_line, by_plain_merge_from_list, by_merged_config, by_clone,
]  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_old_names_set_what_they_always_set_with_one_warning(door, tmp_path, caplog):
    cfg = door(tmp_path)
    check(cfg)
    validate_mic_config(cfg)
    lines = [r.getMessage() for r in caplog.records if "old name" in r.getMessage()]
    assert len(lines) == 1
    for old, new, _ in NAMES:
        section = next((a for a in SECTIONS if old.startswith(f"{a}.")), "")
        kept = section and new == SECTIONS[section] + old[len(section) :]  # only the section has another name
        of_section = kept and f"{section} is now {SECTIONS[section]}" in lines[0]
        assert old == new or of_section or f"{old} is now {new}" in lines[0]
    assert "MICRCNN is now MODEL.META_ARCHITECTURE MIC" in lines[0]


def test_current_names_are_merged_without_a_warning(tmp_path, caplog):
    cfg = load_config(write_config(tmp_path / "c.yaml", nested([(new, v) for _, new, v in NAMES])))
    check(cfg)
    assert not [r for r in caplog.records if "old name" in r.getMessage()]


def test_the_config_of_an_old_run_is_read_whole(tmp_path):
    """As Detectron2 dumps it, with every key."""
    cfg = load_config("", ["MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "MIC"])
    text = cfg.dump()
    for now, before in [
        ("CUSTOM: {}", "DECLARED: {}"), ("STRONG_AUG:", "COLOR:"), ("ON_SOURCE:", "SOURCE:"), ("MONITOR:", "WATCH:"),
        ("PATIENCE:", "STEPS:"), ("AGREEMENT:", "CONSISTENCY:"), ("GRL_WEIGHT", "REVERSAL_WEIGHT"),
        ("_BOX_REG_WEIGHT:", "_LOC_WEIGHT:"), ("META_ARCHITECTURE: MIC", "META_ARCHITECTURE: MICRCNN"),
    ]:  # fmt: skip
        assert now in text
        text = text.replace(now, before)
    (tmp_path / "config.yaml").write_text(text)
    assert json.dumps(load_config(str(tmp_path / "config.yaml"))) == json.dumps(cfg)


@pytest.mark.parametrize("first, second", [("REVERSAL_WEIGHT", "GRL_WEIGHT"), ("GRL_WEIGHT", "REVERSAL_WEIGHT")])
def test_a_file_wins_over_its_base_whichever_names_they_have(tmp_path, first, second):
    write_config(tmp_path / "base.yaml", nested([(f"{MIC}ALIGNMENT.IMAGE.{first}", 0.5)]))
    config = {"_BASE_": "base.yaml", **nested([(f"{MIC}ALIGNMENT.IMAGE.{second}", 0.25)])}
    path = write_config(tmp_path / "c.yaml", config)
    plain = mic_cfg()
    plain.merge_from_file(path)
    for cfg in (load_config(path), plain):
        assert cfg.MODEL.MIC.ALIGNMENT.IMAGE.GRL_WEIGHT == 0.25


@pytest.mark.parametrize("old, new, value", [n for n in NAMES if n[0] != n[1]])
def test_both_names_of_a_key_are_an_error(tmp_path, old, new, value):
    tree = nested([(old, value), (new, value)])
    path = write_config(tmp_path / "c.yaml", tree)
    doors = [lambda: load_config(path), lambda: mic_cfg().merge_from_file(path)]
    doors.append(lambda: mic_cfg().merge_from_other_cfg(CfgNode(tree)))
    doors.append(lambda: load_config("", [old, value, new, value]))
    for i, door in enumerate(doors):
        with pytest.raises(ConfigError, match="both are set: keep") as error:
            door()
        named = re.search(r"(\S+) is the old name of (\S+), and", str(error.value))
        assert old.startswith(named[1]) and new.startswith(named[2]) and named[1] != named[2]
        if i < 2:
            assert re.match(rf"{re.escape(path)}, line \d+: ", str(error.value))


def test_a_mistake_below_an_old_name_is_reported_with_its_line(tmp_path):
    (tmp_path / "c.yaml").write_text("VERSION: 2\nMODEL:\n  MIC:\n    COLOR:\n      SOURCE: 3\n")
    with pytest.raises(ConfigError, match=r"c\.yaml, line 5: MODEL.MIC.STRONG_AUG.ON_SOURCE is of type int"):
        load_config(str(tmp_path / "c.yaml"))
    (tmp_path / "c.yaml").write_text("VERSION: 2\nMODEL:\n  MIC:\n    COLOR:\n      BLURR: 3\n")
    with pytest.raises(ConfigError, match=r"c\.yaml, line 5: there is no key MODEL.MIC.STRONG_AUG.BLURR"):
        load_config(str(tmp_path / "c.yaml"))


def test_text_of_yaml_stays_what_it_is_except_for_old_names(tmp_path):
    """Quotes, aliases, flow, a key twice and tags of Python: Detectron2's own merge_from_file allows all of them."""
    text = """\
VERSION: 2
MODEL:
  "META_ARCHITECTURE": &name 'MICRCNN'   # ä comment with COLOR: {SOURCE: 1} in it
  WEIGHTS: *name
  WEIGHTS: twice.pth
  MIC:
    ALIGNMENT: {IMAGE: &part {REVERSAL_WEIGHT: 0.5, ENABLED: yes}, "CONSISTENCY": {WEIGHT: 0.5},
                INSTANCE: {<<: *part, WEIGHT: 2.0}}
    COLOR: {BLUR_SIGMA: !!python/tuple [0.5, 2.0], "SOURCE": true}
"""
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    cfg = mic_cfg()
    cfg.merge_from_file(str(tmp_path / "c.yaml"))
    a, strong = cfg.MODEL.MIC.ALIGNMENT, cfg.MODEL.MIC.STRONG_AUG
    assert (a.IMAGE.GRL_WEIGHT, a.INSTANCE.GRL_WEIGHT, a.INSTANCE.WEIGHT, a.AGREEMENT.WEIGHT) == (0.5, 0.5, 2.0, 0.5)
    assert a.IMAGE.ENABLED and a.INSTANCE.ENABLED and strong.ON_SOURCE and strong.BLUR_SIGMA == (0.5, 2.0)
    assert (cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.WEIGHTS) == ("MIC", "twice.pth")


def test_own_sections_are_added_and_merged_as_in_any_config(tmp_path):
    cfg = mic_cfg()
    cfg.MODEL.MINE = CfgNode({"DEPTH": 3, "HEAD": {"DIM": 4}})
    cfg.MINE = CfgNode(new_allowed=True)
    config = nested(
        [("MODEL.MINE.DEPTH", 5), ("MODEL.MINE.HEAD.DIM", 6), ("MINE.any.key", 7), (MIC + "WATCH.STEPS", 8)]
    )
    cfg.merge_from_file(write_config(tmp_path / "c.yaml", config))
    cfg.merge_from_list(["MODEL.MINE.HEAD.DIM", 9])
    assert (cfg.MODEL.MINE.DEPTH, cfg.MODEL.MINE.HEAD.DIM, cfg.MINE.any.key) == (5, 9, 7)
    assert cfg.MODEL.MIC.MONITOR.PATIENCE == 8
    cfg.freeze()
    with pytest.raises(AttributeError, match="immutable"):
        cfg.MODEL.MIC.MONITOR.PATIENCE = 9
    again = mic_cfg()
    again.MODEL.MINE, again.MINE = cfg.clone().MODEL.MINE, CfgNode(new_allowed=True)
    again.merge_from_other_cfg(CfgNode(yaml.safe_load(cfg.dump())))
    assert json.dumps(again, sort_keys=True) == json.dumps(cfg, sort_keys=True)


@pytest.mark.parametrize("old, new", RENAMED.items())
def test_an_old_name_that_is_set_as_an_attribute_is_refused(old, new):
    cfg = mic_cfg()
    node = value_of(cfg, old.rpartition(".")[0])
    node[old.rpartition(".")[2]] = 1.0
    with pytest.raises(ConfigError) as error:
        validate_mic_config(cfg)
    assert str(error.value) == f"{old} is an old name: set {new} instead."


def test_new_names_are_keys_of_ours_beside_the_old_ones():
    keys = set(flat_keys(mic_cfg())) | {"DATASETS.CUSTOM"}
    for old, new in RENAMED.items():
        assert any(k == new or k.startswith(f"{new}.") for k in keys)
        assert not any(k == old or k.startswith(f"{old}.") for k in keys)
        assert old.rpartition(".")[0] == new.rpartition(".")[0]


def test_settings_in_an_old_checkpoint_are_compared_by_their_current_names():
    now = config_settings(load_config("", ["MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "MIC"]))
    old = {new: name for name, new, _ in NAMES if not name.startswith("DATASETS")}
    before = {old.get(k, k): v for k, v in now.items()}
    before["MODEL.META_ARCHITECTURE"] = "MICRCNN"
    assert len(before.keys() - now.keys()) == 16 and current_settings(before) == now
    assert changed_settings(before, now) == []
    # a run that is resumed with its own config.yaml, in which YAML has no tuples
    before["MODEL.ROI_BOX_CASCADE_HEAD.IOUS"], now["MODEL.ROI_BOX_CASCADE_HEAD.IOUS"] = "[(0.5,), 0.6]", "[[0.5], 0.6]"
    assert changed_settings(before, now) == []
    before[MIC + "WATCH.STEPS"], before[MIC + "CONSISTENCY.ROI_LOC_WEIGHT"] = "7", "1.0"
    assert changed_settings(before, now) == [
        "MODEL.MIC.CONSISTENCY.ROI_BOX_REG_WEIGHT: was 1.0, is 0.0", "MODEL.MIC.MONITOR.PATIENCE: was 7, is 200",
    ]  # fmt: skip


ADAPT = MIC + "PSEUDO_BOXES.ADAPT"
REMOVED = nested([(ADAPT, "running_mean")])


@pytest.mark.parametrize("door", ["file", "list", "config"])
def test_a_removed_value_gives_way_to_another_with_a_warning(door, tmp_path, caplog):
    """Old configs of runs still serve to predict: thresholds of pseudo-boxes do not matter there."""
    cfg = mic_cfg()
    if door == "file":
        cfg = load_config(write_config(tmp_path / "c.yaml", REMOVED))
    elif door == "list":
        cfg.merge_from_list([ADAPT, "running_mean"])
    else:
        cfg.merge_from_other_cfg(CfgNode(REMOVED))
    validate_mic_config(cfg)
    assert value_of(cfg, ADAPT) == "none"
    (line,) = [r.getMessage() for r in caplog.records if "running_mean" in r.getMessage()]
    assert f"{ADAPT} running_mean was removed, and {ADAPT} none is used." in line and "class_shares" in line


def test_a_run_that_resumes_without_a_removed_value_says_so():
    before = {**config_settings(mic_cfg()), ADAPT: "running_mean"}
    assert any(ADAPT in x and "running_mean" in x for x in changed_settings(before, config_settings(mic_cfg())))
