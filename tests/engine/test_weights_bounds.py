"""Files that claim more than they have are refused before anything is expanded, and odd tensors by name."""

import io
import pickle
import resource
import struct
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from mic_det.checkpoint.formats import read_pickle, read_torch, with_tensors
from mic_det.checkpoint.storage import damage
from mic_det.errors import CheckpointError

GIB = 2**30


def peak():
    """The most memory that this process has had, in bytes (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def rewritten(file, change, compression=zipfile.ZIP_STORED):
    """torch's archive again, with ``change(name, content)`` of each entry."""
    with zipfile.ZipFile(file) as old:
        entries = [(n, change(n, old.read(n))) for n in old.namelist()]
    with zipfile.ZipFile(file, "w", compression) as new:
        for name, content in entries:
            new.writestr(name, content)


def zip_bomb(file):
    torch.save({"model": {"a": torch.zeros(50_000_000)}}, file)
    rewritten(file, lambda n, c: c, zipfile.ZIP_DEFLATED)


def torch_pickle(file, content):
    """A .pth whose pickle is ``content``."""
    torch.save({"model": {"a": torch.zeros(3)}}, file)
    rewritten(file, lambda n, c: content if n.endswith("data.pkl") else c)


def call(name, *numbers):
    """A pickle that calls a global with numbers."""
    module, _, function = name.rpartition(".")
    args = b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in numbers)
    return b"\x80\x02c" + module.encode() + b"\n" + function.encode() + b"\n(" + args + b"tR."


def array_of(shape):
    """A pickled dict with numpy's empty array of a shape."""
    args = b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in shape)
    return b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + args + b"tU\x01btR."


BOMBS = {
    "zip.pth": (zip_bomb, "claim"),
    "bytearray.pth": (lambda f: torch_pickle(f, call("builtins.bytearray", 40 * GIB)), "bytearray"),
    "tensor.pth": (lambda f: torch_pickle(f, call("torch.Tensor", 40 * GIB)), "torch.Tensor"),
    "old_tensor.pth": (lambda f: torch_pickle(f, call("torch.FloatTensor", 40 * GIB)), "FloatTensor"),
    "array.pkl": (lambda f: f.write_bytes(array_of((40 * GIB,))), "shape"),
    "array_called.pkl": (lambda f: f.write_bytes(call("numpy.ndarray", 40 * GIB)), "shape"),
    "memo.pkl": (lambda f: f.write_bytes(b"\x80\x02}r" + struct.pack("<I", 2**31) + b"."), "table"),
    "bytearray.pkl": (lambda f: f.write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 40 * GIB) + b"."), ""),
    "text.pkl": (lambda f: f.write_bytes(b"\x80\x04\x8d" + struct.pack("<Q", 40 * GIB) + b"x."), ""),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_claims_gigabytes_is_refused_before_it_has_them(tmp_path, name):
    write, part = BOMBS[name]
    write(tmp_path / name)
    before = peak()
    with pytest.raises(CheckpointError, match=part) as caught:
        (read_pickle if name.endswith("pkl") else read_torch)(str(tmp_path / name))
    assert name in str(caught.value) and "\n" not in str(caught.value)
    assert peak() - before < GIB / 4
    assert name.endswith("pkl") or name != "zip.pth" or "claim" in damage(str(tmp_path / name))


def test_honest_files_are_not_bombs(tmp_path):
    """Old and new format, shared and empty tensors, parameters, arrays, NumPy's numbers, many small entries."""
    shared = torch.arange(6.0)
    state = {
        **nn.Linear(3, 2).state_dict(), "p": nn.Parameter(torch.ones(2)), "view": shared[2:4], "whole": shared,
        "empty": torch.zeros(0, 4), "half": torch.ones(3).half(), "b": torch.ones(2, dtype=torch.bool),
    }  # fmt: skip
    for zipped in (True, False):
        torch.save({"model": state, "lr": 0.1, "names": ["a"] * 999}, tmp_path / "x.pth",
                   _use_new_zipfile_serialization=zipped)  # fmt: skip
        found = with_tensors(read_torch(str(tmp_path / "x.pth")), "x")["model"]
        assert all(torch.equal(found[k], state[k]) for k in state)
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "s": np.float32(3),
        "e": np.zeros((0, 2)),
        "f": np.asfortranarray(np.eye(3)),
    }
    for protocol in range(2, 6):
        with open(tmp_path / "x.pkl", "wb") as f:
            pickle.dump({"model": arrays, "__author__": "x"}, f, protocol=protocol)
        try:
            found = read_pickle(str(tmp_path / "x.pkl"))["model"]
        except CheckpointError as e:
            assert protocol == 5 and (
                "_frombuffer" in str(e) or "bytearray" in str(e)
            )  # NumPy's form for protocol 5, which no zoo has
            continue
        assert all(np.array_equal(found[k], arrays[k]) for k in arrays), protocol


ODD = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "csr": lambda: torch.eye(3).to_sparse_csr(),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
    "meta": lambda: torch.empty(3, device="meta"),
    "complex": lambda: torch.ones(3) + 1j,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_tensors_that_are_no_weights_are_refused_by_name(tmp_path, kind):
    content = {"model": {"layer.weight": ODD[kind]()}}
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="odd.pth") as caught:
        with_tensors(read_torch(str(tmp_path / "odd.pth")), str(tmp_path / "odd.pth"))
    assert {"csr": "sparse"}.get(kind, kind) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="layer.weight"):
        with_tensors(content, "odd.pth")


def test_pipes_are_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.pth")
    for read in (read_torch, read_pickle):
        with pytest.raises(CheckpointError, match="no ordinary file"):
            read(str(tmp_path / "pipe.pth"))
    assert damage(str(tmp_path / "pipe.pth")) == "it is no ordinary file"


def test_deep_nesting_is_an_error_of_one_line(tmp_path):
    content = io.BytesIO(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    torch_pickle(tmp_path / "deep.pth", content.getvalue())
    with pytest.raises(CheckpointError) as caught:
        read_torch(str(tmp_path / "deep.pth"))
    assert "\n" not in str(caught.value)
