"""Files that cannot be trusted or read are refused by name and never executed; saving is all or nothing."""

import os
import pickle

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from helpers.data import forget_registered_sets, load, tiny_config
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.errors import CheckpointError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    keys = {"MODEL__BACKBONE__NAME": "build_torchvision_fpn_backbone", "MODEL__META_ARCHITECTURE": "MIC"}
    with forget_registered_sets():
        return build_model(load(folder, tiny_config(folder, **keys)))


class Payload:
    """What an attacker pickles: on loading, it calls ``function(*args)``."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def refused(model, path):
    """The one-line message with which a file is refused; nothing in the model may have changed."""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        MICCheckpointer(model).load(str(path))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    assert "weights_only" not in message, "no advice to switch the protection off"
    return message


def payloads(canary):
    return {
        "posix.system" if os.name == "posix" else "nt.system": Payload(os.system, f'echo x > "{canary}"'),
        "io.open": Payload(open, str(canary), "w"),
        "builtins.exec": Payload(exec, f"open({str(canary)!r}, 'w')"),
    }


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("writer", ["torch", "torch_legacy", "pickle"])
@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".pyth"])
def test_a_file_with_code_is_refused_by_name_and_not_run(model, tmp_path, suffix, writer, which):
    canary, path = tmp_path / "canary", tmp_path / f"evil{suffix}"
    name, payload = list(payloads(canary).items())[which]
    # hidden beside a complete set of weights, as a poisoned download would have it
    content = {"model": {"weight": torch.zeros(3)}, "__author__": "x", "extra": payload}
    if writer == "pickle":
        content["model"] = {"weight": np.zeros(3, np.float32)}
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=writer == "torch")
    message = refused(model, path)
    if (suffix == ".pkl") == (writer == "pickle"):  # else the file is of another format, which is said instead
        assert name in message or name == "builtins.exec" and "names exec" in message
    assert not canary.exists(), "the file's code was run"


def test_the_canary_dies_where_a_file_is_loaded_carelessly(tmp_path):
    """The payloads work: the tests above would notice code that is run."""
    for i, payload in enumerate(payloads(tmp_path / "canary").values()):
        (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"extra": payload}))
        with open(tmp_path / "evil.pkl", "rb") as f:
            pickle.load(f)
        assert (tmp_path / "canary").exists(), i
        (tmp_path / "canary").unlink()


def test_code_inside_an_array_of_objects_is_refused(model, tmp_path):
    array = np.empty(1, dtype=object)
    array[0] = Payload(os.system, f'echo x > "{tmp_path / "canary"}"')
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": {"weight": array}, "__author__": "x"}))
    assert "system" in refused(model, tmp_path / "evil.pkl")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("trick", [b"cnumpy.core.multiarray\n__builtins__\n.", b"cnumpy\nload\n.", b"cnumpy\nf2py\n."])
def test_only_listed_names_of_an_admitted_module_are_admitted(model, tmp_path, trick):
    (tmp_path / "evil.pkl").write_bytes(trick)
    assert trick.split(b"\n")[1].decode() in refused(model, tmp_path / "evil.pkl")


@pytest.mark.parametrize("suffix, share", [(s, x) for s in (".pth", ".pkl") for x in (0, 0.01, 0.3, 0.5, 0.999)])
def test_a_truncated_file_is_named(model, tmp_path, suffix, share):
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".pkl":
        arrays = {k: v.numpy() for k, v in model.student.state_dict().items()}
        whole.write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}))
    else:
        torch.save({"model": model.state_dict()}, whole)
    MICCheckpointer(model).load(str(whole))  # it is good while it is whole
    content = whole.read_bytes()
    (tmp_path / f"part{suffix}").write_bytes(content[: int(len(content) * share)])
    refused(model, tmp_path / f"part{suffix}")


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), "text", None])
def test_a_file_that_holds_no_weights_is_named(model, tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    refused(model, tmp_path / "odd.pth")
    if not isinstance(content, torch.Tensor):
        (tmp_path / "odd.pkl").write_bytes(pickle.dumps(content))
        refused(model, tmp_path / "odd.pkl")


@pytest.mark.parametrize("name", ["gone.pth", "gone.pkl", ""])
def test_a_missing_file_or_a_folder_is_named_with_the_key(model, tmp_path, name):
    path = tmp_path / name
    with pytest.raises(CheckpointError, match=r"MODEL\.WEIGHTS") as caught:
        MICCheckpointer(model).load(str(path))
    assert str(path) in str(caught.value)


def test_an_unknown_torchvision_model_is_named(model):
    with pytest.raises(CheckpointError, match="torchvision://no_such_net"):
        MICCheckpointer(model).load("torchvision://no_such_net")


def test_an_address_that_does_not_answer_is_named(model, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    address = "http://127.0.0.1:9/model.pth"  # the discard port: nothing listens
    with pytest.raises(CheckpointError, match="127.0.0.1:9/model.pth"):
        MICCheckpointer(model).load(address)


def test_after_a_refused_file_the_checkpointer_still_works(model, tmp_path):
    torch.save({"model": model.state_dict()}, tmp_path / "good.pth")
    checkpointer = MICCheckpointer(model)
    for bad in ("gone.pth", "gone.pkl"):
        with pytest.raises(CheckpointError):
            checkpointer.load(str(tmp_path / bad))
    checkpointer.load(str(tmp_path / "good.pth"))


def test_no_weights_means_starting_from_scratch(model):
    assert MICCheckpointer(model).load("") == {}


# ----------------------------------------------------------------------------------------- saving


def test_a_write_that_fails_leaves_the_old_checkpoint(model, tmp_path):
    checkpointer = MICCheckpointer(model, str(tmp_path))
    checkpointer.save("model_final", iteration=1)
    before = (tmp_path / "model_final.pth").read_bytes()
    for name in ("model_final", "model_0000009"):
        # a value that cannot be pickled makes torch.save fail in the middle of the file
        with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
            checkpointer.save(name, iteration=2, broken=lambda: 0)
    assert (tmp_path / "model_final.pth").read_bytes() == before
    assert not (tmp_path / "model_0000009.pth").exists()
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_final.pth")
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 1


def test_saved_files_are_listed_tagged_and_leave_nothing_behind(model, tmp_path):
    checkpointer = MICCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000001")
    checkpointer.save("model_0000002")
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000001.pth", "model_0000002.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"


def test_saving_can_be_left_to_another_process(model, tmp_path):
    MICCheckpointer(model, str(tmp_path), save_to_disk=False).save("model")
    assert os.listdir(tmp_path) == []
