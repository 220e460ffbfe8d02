"""Configs are read, checked, and refused with the key or file that is wrong."""

import pytest
import torch

from helpers.data import load, tiny_config, write_config
from mic_det.engine.setup import load_config
from mic_det.errors import ConfigError

pytestmark = pytest.mark.usefixtures("clean_catalogs")


def refused(*args):
    """The one-line message with which a config is refused."""
    with pytest.raises(ConfigError) as caught:
        load_config(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_options_override_the_file_which_overrides_its_base(tmp_path):
    write_config(tmp_path / "base.yaml", {"SOLVER": {"BASE_LR": 0.5, "MAX_ITER": 7, "IMS_PER_BATCH": 3}})
    config = {"_BASE_": "base.yaml", "SOLVER": {"MAX_ITER": 8, "IMS_PER_BATCH": 4}}
    cfg = load_config(write_config(tmp_path / "c.yaml", config), ["SOLVER.IMS_PER_BATCH", "5"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH) == (0.5, 8, 5)
    assert cfg.MODEL.MIC.MASK.BLOCK_SHARE == 0.04, "mic_det's keys are there"


def test_defaults_are_a_valid_config():
    assert load_config().SOLVER.IMS_PER_BATCH_TARGET == 1


@pytest.mark.parametrize(
    "option", ["MODEL.MIC.MASK.RATOI", "MODEL.NO_SUCH.KEY", "SOLVER.IMS_PER_BATCH_TARGTE", "NOTHING"]
)
def test_unknown_key_on_the_command_line(option):
    assert option in refused("", [option, "1"])


def test_unknown_key_in_a_file(tmp_path):
    path = write_config(tmp_path / "c.yaml", {"MODEL": {"MIC": {"MASK": {"RATOI": 0.5}}}})
    message = refused(path)
    assert "MODEL.MIC.MASK.RATOI" in message and path in message


@pytest.mark.parametrize(
    "key, value", [("SOLVER.MAX_ITER", "many"), ("MODEL.MIC.MASK.BLOCK_SIZE", "0.5"), ("DATASETS.TARGET", "3")]
)
def test_wrong_type(key, value):
    assert key in refused("", [key, value])


def test_wrong_type_in_a_file(tmp_path):
    path = write_config(tmp_path / "c.yaml", {"SOLVER": {"MAX_ITER": "many"}})
    message = refused(path)
    assert "SOLVER.MAX_ITER" in message and path in message


def test_a_key_without_a_value():
    assert "odd length" in refused("", ["SOLVER.MAX_ITER"])


def test_missing_file(tmp_path):
    assert str(tmp_path / "gone.yaml") in refused(str(tmp_path / "gone.yaml"))


def test_missing_base(tmp_path):
    path = write_config(tmp_path / "c.yaml", {"_BASE_": "gone.yaml"})
    assert "gone.yaml" in refused(path)


def test_a_folder_is_no_config(tmp_path):
    assert str(tmp_path) in refused(str(tmp_path))


@pytest.mark.parametrize(
    "text", ["SOLVER: {MAX_ITER: 3", "a: b: c", "\tx: 1", "- 1\n- 2\n", "just words", "SOLVER: [1, 2]", "# nothing"]
)
def test_a_file_that_is_no_mapping_of_keys(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    assert "bad.yaml" in refused(str(tmp_path / "bad.yaml"))


def test_the_line_of_a_yaml_mistake_is_told(tmp_path):
    (tmp_path / "bad.yaml").write_text("SEED: 1\nSOLVER: {MAX_ITER: 3\n\nMODEL: 4\n")
    assert "line 4" in refused(str(tmp_path / "bad.yaml"))


def test_yaml_that_builds_objects_is_refused_and_not_run(tmp_path):
    canary = tmp_path / "canary"
    (tmp_path / "evil.yaml").write_text(f"OUTPUT_DIR: !!python/object/apply:builtins.open ['{canary}', w]\n")
    assert "evil.yaml" in refused(str(tmp_path / "evil.yaml"))
    assert not canary.exists()


def test_values_are_checked_when_a_config_is_loaded():
    message = refused("", ["MODEL.MIC.MASK.RATIO", "1.0"])
    assert "MODEL.MIC.MASK.RATIO" in message and "[0, 1)" in message


@pytest.mark.parametrize("entry", [{"JSON": "a.json"}, {"IMAGES": "a", "IMAGE": "b"}, "folder", {"IMAGES": ""}])
def test_declared_set_without_images_or_with_unknown_entries(tmp_path, entry):
    path = write_config(tmp_path / "c.yaml", {"DATASETS": {"CUSTOM": {"mine": entry}}})
    assert "DATASETS.CUSTOM.mine" in refused(path)


@pytest.mark.parametrize("asked", ["cuda", "cuda:1"])
def test_cuda_falls_back_to_the_cpu_with_a_warning(tmp_path, monkeypatch, caplog, asked):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg = load(tmp_path, tiny_config(tmp_path, MODEL__DEVICE=asked))
    assert cfg.MODEL.DEVICE == "cpu"
    assert asked in caplog.text and "the CPU is used" in caplog.text


def test_cuda_is_kept_where_there_is_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert load(tmp_path, tiny_config(tmp_path, MODEL__DEVICE="cuda")).MODEL.DEVICE == "cuda"
