"""Damaged files of weights: one line names them, whether to train from them or to predict by them."""

import collections
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from helpers.data import forget_registered_sets, load, tiny_config, write_two_domains
from helpers.faults import check_told
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.engine.trainer import MICTrainer

MIC = {"MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": ["target_train"]}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(folder, {whether it is a MIC: (config, model)})"""
    root = tmp_path_factory.mktemp("weights")
    write_two_domains(root)
    with forget_registered_sets():
        configs = {mic: load(root, tiny_config(root, **keys)) for mic, keys in ((False, {}), (True, MIC))}
        yield root, {mic: (cfg, MICTrainer.build_model(cfg)) for mic, cfg in configs.items()}


class Runs:
    """Unpickled, it leaves a file behind."""

    def __reduce__(self):
        return open, ("was_run", "w")


def write_pickle(file, content):
    file.write_bytes(pickle.dumps(content))


def write_good_pickle(file, state):
    write_pickle(file, {"model": {k: v.numpy() for k, v in state.items()}, "__author__": "x"})


def renamed(state):
    return {f"encoder.{i}": v for i, v in enumerate(state.values())}


def half(state):
    return dict(list(state.items())[: len(state) // 2])


def other_fpn(state):
    return {k: torch.zeros(v.shape[0] + 1, *v.shape[1:]) if "fpn_output" in k else v for k, v in state.items()}


# file name: (how it is written from a good state dict, what the message says beside its name)
FILES = {
    "gone.pth": (None, "MODEL.WEIGHTS"),
    "folder.pth": (lambda f, s: f.mkdir(exist_ok=True), "is a folder"),
    "empty.pth": (lambda f, s: f.write_bytes(b""), "empty"),
    "empty.pkl": (lambda f, s: f.write_bytes(b""), "empty"),
    "empty.safetensors": (lambda f, s: f.write_bytes(b""), "empty"),
    "page.pth": (lambda f, s: f.write_bytes(b"<html>404 Not Found</html>"), "damaged"),
    "page.pkl": (lambda f, s: f.write_bytes(b"<html>404 Not Found</html>"), "damaged"),
    "page.safetensors": (lambda f, s: f.write_bytes(b"<html>404 Not Found</html>"), "damaged"),
    "cut.pth": (lambda f, s: (torch.save({"model": s}, f), f.write_bytes(f.read_bytes()[:5000])), "damaged"),
    "cut.pkl": (lambda f, s: (write_good_pickle(f, s), f.write_bytes(f.read_bytes()[:-5000])), "damaged"),
    "cut.safetensors": (lambda f, s: (save_file(s, f), f.write_bytes(f.read_bytes()[:-5000])), "damaged"),
    "code.pth": (lambda f, s: torch.save({"model": s, "x": Runs()}, f), "names io.open"),
    "code.pkl": (lambda f, s: write_pickle(f, {"model": {"a": np.zeros(3)}, "x": Runs()}), "names io.open"),
    "class.pth": (lambda f, s: torch.save(torch.nn.Linear(2, 2), f), "torch.nn.modules.linear.Linear"),
    "counter.pth": (lambda f, s: torch.save({"model": s, "x": collections.deque()}, f), "collections.deque"),
    "list.pth": (lambda f, s: torch.save([1, 2], f), "list"),
    "number.pth": (lambda f, s: torch.save({"model": {"a": 3}}, f), "'a' is int"),
    "nothing.pth": (lambda f, s: torch.save({"model": {}}, f), "no weights"),
    "results.pth": (lambda f, s: torch.save({"epoch": 3, "accuracy": 0.5}, f), "'epoch' is int"),
    "foreign.pth": (lambda f, s: torch.save({"state_dict": renamed(s)}, f), "0 of"),
    "half.pth": (lambda f, s: torch.save({"model": half(s)}, f), "MODEL.BACKBONE.MIN_MATCHED_KEYS"),
    "fpn.pth": (lambda f, s: torch.save({"model": other_fpn(s)}, f), "backbone.fpn_output"),
}


@pytest.mark.parametrize("complete", [False, True], ids=["to train", "to predict"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_weights_that_cannot_be_used_is_named(models, monkeypatch, name, complete):
    root, by_kind = models
    monkeypatch.chdir(root)
    write, part = FILES[name]
    if write:
        write(root / name, by_kind[False][1].state_dict())
    for cfg, model in by_kind.values():
        checkpointer = MICCheckpointer.from_config(cfg, model, complete=complete)
        told = check_told([name, part], checkpointer.load, name)
        assert ("--trust-checkpoint" in told) == ("it names" in told), "the way out is told where there is one"
    assert not (root / "was_run").exists(), "the file's code was run"
