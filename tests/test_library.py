"""mic_det as a library: its public names, Detectron2's own trainer, and a LazyConfig that is the YAML's model."""

import inspect
import itertools
import json
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

import mic_det
import mic_det.data
import mic_det.engine
import mic_det.evaluation
import mic_det.modeling
from helpers.data import (
    declared,
    forget_registered_sets,
    keep_loggers,
    load,
    run_tool_here,
    tiny_config,
    write_config,
    write_two_domains,
)
from mic_det.data.minicity import make_minicity

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CONFIG, LAZY = ROOT / "configs/minicity/mic.yaml", ROOT / "configs/lazy/minicity_mic.py"
SMALL = ["MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TRAIN", (96,), "DATASETS.TEST", ()]


# -------------------------------------------------------------------------------------- public names


@pytest.mark.parametrize("package", [mic_det, mic_det.modeling, mic_det.data, mic_det.engine, mic_det.evaluation])
def test_every_public_name_is_there_and_listed(package):
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_public_names_are_about_ten_and_annotated():
    names = [n for n in mic_det.__all__ if n != "__version__"]
    assert 8 <= len(names) <= 12
    for name in names:
        thing = getattr(mic_det, name)
        if inspect.isclass(thing) and issubclass(thing, Exception):
            continue
        functions = [thing] if inspect.isfunction(thing) else [thing.__init__]
        functions += [thing.__call__] if name == "Predictor" else [thing.forward] if name == "MIC" else []
        for function in functions:
            function = inspect.unwrap(function)
            hints, signature = typing.get_type_hints(function), inspect.signature(function)
            missing = {p for p in signature.parameters if p != "self"} - set(hints)
            assert not missing and "return" in hints, (name, function.__name__, missing)


def test_importing_the_package_does_not_import_trainers_and_drawing():
    code = (
        "import sys, mic_det; slow = [m for m in sys.modules if m.startswith(('mic_det.engine', 'mic_det.vis'))]; "
        "assert not slow, slow; mic_det.MICTrainer, mic_det.get_mic_cfg; assert 'mic_det.engine.trainer' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_marker_of_typed_packages_is_installed(tmp_path):
    command = [sys.executable, "setup.py", "--quiet", "build", "--build-base", str(tmp_path / "base")]
    command += ["build_py", "--build-lib", str(tmp_path / "lib")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "lib/mic_det/py.typed").is_file() and (tmp_path / "lib/mic_det/modeling/mic.py").is_file()


# -------------------------------------------------------------------------------- configs, batches


def test_get_mic_cfg_registers_declared_sets_and_takes_options(tmp_path):
    write_two_domains(tmp_path)
    file = write_config(tmp_path / "c.yaml", tiny_config(tmp_path))
    with forget_registered_sets():
        cfg = mic_det.get_mic_cfg(Path(file), ["SOLVER.MAX_ITER", 7])
        assert cfg.SOLVER.MAX_ITER == 7 and not cfg.is_frozen()
        assert len(DatasetCatalog.get("source_train")) == 8
    with pytest.raises(mic_det.ConfigError, match="SOLVER.MAX_STEPS"):
        mic_det.get_mic_cfg(file, ["SOLVER.MAX_STEPS", 7])


def test_a_mapper_of_ones_own_sees_both_domains_and_no_label_of_the_target(tmp_path):
    write_two_domains(tmp_path)
    seen = []

    def mapper(x):
        seen.append(dict(x))
        return {"image": torch.zeros(3, 4, 4), "file_name": x["file_name"]}

    with forget_registered_sets():
        # a set that something measures is loaded with its labels, which training must not see
        keys = {"DATASETS__TARGET": ["target_train"], "TEST__PSEUDO_LABELS__DATASET": "target_train"}
        cfg = load(tmp_path, tiny_config(tmp_path, **keys))
        assert all(x["annotations"] for x in DatasetCatalog.get("target_train")), "the set has labels to hide"
        ours = [x for b in itertools.islice(mic_det.build_mic_train_loader(cfg, mapper), 3) for x in b]
        default = [x for b in itertools.islice(mic_det.build_mic_train_loader(cfg), 1) for x in b]
    assert [x["domain"] for x in ours] == ["source", "source", "target", "target"] * 3
    assert [x["domain"] for x in default] == ["source", "source", "target", "target"]
    assert {x["domain"] for x in seen} == {"source", "target"}
    for x in seen:
        more = {"annotations", "height", "width"} if x["domain"] == "source" else set()
        assert set(x) == {"file_name", "image_id", "domain"} | more
        assert x["domain"] in x["file_name"]


def test_detectron2s_mapper_is_one(tmp_path):
    write_two_domains(tmp_path)
    with forget_registered_sets():
        cfg = load(tmp_path, tiny_config(tmp_path, DATASETS__TARGET=["target_train"]))
        batch = next(iter(mic_det.build_mic_train_loader(cfg, mapper=DatasetMapper(cfg, True))))
    assert ["instances" in x for x in batch] == [True, True, False, False]


@pytest.mark.parametrize(
    "mapper, error, text",
    [
        ("no", TypeError, "mapper is 'no'"),
        (lambda x: None, mic_det.DataError, "returned NoneType for image"),
    ],
)
def test_a_mapper_that_cannot_work(tmp_path, mapper, error, text):
    write_two_domains(tmp_path)
    with forget_registered_sets():
        cfg = load(tmp_path, tiny_config(tmp_path, DATASETS__CUSTOM=declared(tmp_path)))
        with pytest.raises(error, match=text):
            next(iter(mic_det.build_mic_train_loader(cfg, mapper)))


# ------------------------------------------------------------------------ trainers of Detectron2's


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    """A miniature city of few images, where the shipped configs look for it."""
    root = tmp_path_factory.mktemp("datasets")
    make_minicity(root / "minicity", 6, 2, (256, 128), seed=3, workers=1, progress=False)
    with pytest.MonkeyPatch.context() as patch, forget_registered_sets():
        patch.setenv("DETECTRON2_DATASETS", str(root))
        yield root


class Trainer(DefaultTrainer):
    """As in README.md."""

    @classmethod
    def build_train_loader(cls, cfg):
        return mic_det.build_mic_train_loader(cfg)


class Recorder(HookBase):
    """The weights of one layer after each step of the optimizer."""

    def __init__(self, layer):
        self.layer, self.values = layer, []

    def after_step(self):
        self.values.append(self.layer.weight.detach().clone())


@pytest.fixture
def logging_restored():
    with keep_loggers():
        yield


def test_detectron2s_default_trainer_trains_a_shipped_config(city, tmp_path, logging_restored):
    plain = build_model(mic_det.get_mic_cfg(ROOT / "configs/minicity/source_only.yaml", SMALL))
    torch.save({"model": plain.state_dict()}, tmp_path / "source_only.pth")
    opts = [
        "MODEL.WEIGHTS",
        str(tmp_path / "source_only.pth"),
        "SOLVER.MAX_ITER",
        3,
        "OUTPUT_DIR",
        str(tmp_path / "run"),
    ]
    cfg = mic_det.get_mic_cfg(CONFIG, [*SMALL, *opts])
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    model = trainer.model
    start = plain.roi_heads.box_predictor.cls_score.weight
    for part in (model.student, model.teacher):
        assert torch.equal(part.roi_heads.box_predictor.cls_score.weight, start)
    recorder = Recorder(model.student.roi_heads.box_predictor.cls_score)
    trainer.register_hooks([recorder])
    trainer.train()
    # Eq. 7 by hand: a = min(1 - 1 / (t + 1), 0.99) = 1/2, 2/3, 3/4
    teacher = start.detach()
    for t, student in enumerate(recorder.values, start=1):
        a = min(1 - 1 / (t + 1), 0.99)
        teacher = a * teacher + (1 - a) * student
    state = torch.load(tmp_path / "run/model_final.pth", weights_only=True)["model"]
    assert int(state["num_steps"]) == len(recorder.values) == 3
    assert not torch.equal(recorder.values[-1], start)
    found = state["teacher.roi_heads.box_predictor.cls_score.weight"]
    assert torch.allclose(found, teacher, atol=1e-7) and not torch.equal(found, recorder.values[-1])
    values = json.loads((tmp_path / "run/metrics.json").read_text().splitlines()[-1])
    assert values["source/loss_cls"] > 0 and "pseudo/num_boxes" in values


# ---------------------------------------------------------------------------------- the LazyConfig


def test_the_lazy_config_has_the_losses_of_the_yaml(city):
    cfg = mic_det.get_mic_cfg(CONFIG, SMALL)
    ours, lazy = build_model(cfg).train(), instantiate(LazyConfig.load(str(LAZY)).model).train()
    lazy.load_state_dict(ours.state_dict())
    batch = next(iter(mic_det.build_mic_train_loader(cfg)))
    losses = []
    for model in (ours, lazy):
        model.task("boxes").select["score_threshold"] = 0.12  # of untrained detectors
        torch.manual_seed(5)
        with EventStorage():
            losses.append(model(batch))
    assert losses[0].keys() == losses[1].keys() and len(losses[0]) == 8
    for name, value in losses[0].items():
        assert value.item() == losses[1][name].item() != 0, name
    assert (ours.alpha, ours.evaluate, ours.burn_in_steps) == (lazy.alpha, lazy.evaluate, lazy.burn_in_steps)
    assert ours.task("boxes").select.keys() >= lazy.task("boxes").select.keys()


def test_the_lazy_config_trains_and_is_evaluated(city, tmp_path, monkeypatch):
    small = [f"dataloader.{x}.mapper.augmentations.0.short_edge_length=[96]" for x in ("train", "test")]
    more = ["train.max_iter=2", f"train.output_dir={tmp_path}", "train.log_period=1", *small]
    run_tool_here("lazyconfig_train_net.py", "--config-file", LAZY, *more, monkeypatch=monkeypatch)
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert len(lines) >= 2 and lines[0]["source/loss_cls"] > 0 and "pseudo/num_boxes" in lines[0]
    assert "bbox/AP50" in lines[-1]
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    assert int(state["num_steps"]) == 2


@pytest.mark.parametrize(
    "args, text",
    [
        (["--config-file", "none.py"], "none.py: there is no such file"),
        (["--config-file", LAZY, "train.max_iter"], "Write KEY=VALUE"),
    ],
)
def test_what_the_lazy_trainer_refuses(city, args, text, monkeypatch):
    with pytest.raises(SystemExit) as caught:
        run_tool_here("lazyconfig_train_net.py", *args, monkeypatch=monkeypatch)
    assert text in str(caught.value.code)


def test_detectron2s_get_cfg_and_add_mic_config_still_do():
    cfg = get_cfg()
    mic_det.add_mic_config(cfg)
    cfg.merge_from_file(str(CONFIG))
    assert cfg.MODEL.META_ARCHITECTURE == "MIC"
