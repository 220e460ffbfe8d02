"""Reading files of weights without running what is in them, and writing those that others read."""

import logging
import os
import pickle
import re
from pathlib import Path

import numpy as np
import torch

from ..errors import CheckpointError
from ..utils.arguments import TRUST
from ..utils.atomic_files import disk_error
from .bounds import TooMuch, check_claims


def read_torch(file, trust=False, mmap=False):
    """What ``torch.save`` wrote, on the CPU.

    Args:
        file (str): its path.
        trust (bool): admit any Python object, whose code is then run.
        mmap (bool): leave tensors in the file until they are looked at.

    Returns:
        dict

    Raises:
        CheckpointError: where the file is damaged, names anything but tensors and plain containers, or is no dict.
    """
    _check_regular(file)
    if not trust:
        # where the scanner stumbles over a damaged file, so does the reader, which names what is wrong
        _check_claims(file)
    try:
        data = torch.load(file, map_location="cpu", weights_only=not trust, mmap=mmap or None)
    # not listed one by one: in a damaged file, the reader stumbles over anything
    except Exception as e:
        # of torch's long message only what it stumbled over
        named = re.search(r"(?:GLOBAL|class) '?([\w.]+)", str(e))
        if trust or not named:
            raise CheckpointError(f"{file} cannot be loaded as weights ({_reason(e)}). {_what_else(file)}") from e
        raise CheckpointError(f"{file} is refused: it names {named[1]}. {_refusal()}") from e
    return _dict(data, file)


def read_pickle(file, trust=False):
    """A ``.pkl`` of Detectron2's zoo, or of Caffe2, as Detectron2 reads them; arguments and errors as above."""
    _check_regular(file)
    if trust:
        _warn(file)
    else:
        _check_claims(file, pickles=1)
    try:
        with open(file, "rb") as f:
            data = pickle.load(f, encoding="latin1") if trust else _PlainUnpickler(f, encoding="latin1").load()
    except _Refused as e:
        raise CheckpointError(f"{file} is refused: it names {e}. {_refusal()}") from None
    except Exception as e:
        raise CheckpointError(f"{file} is not a readable pickle file ({_reason(e)}). {_what_else(file)}") from e
    data = _dict(data, file)
    if "model" in data and "__author__" in data:
        return data
    blobs = _dict(data.get("blobs", data), file)
    blobs = {k: v for k, v in blobs.items() if not str(k).endswith("_momentum")}
    return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}


def read_safetensors(file):
    """Tensors by their names, from a ``.safetensors`` file, which cannot hold code.

    Raises:
        CheckpointError: where it is damaged.
    """
    _check_regular(file)
    try:
        from safetensors.torch import load_file

        return {"model": load_file(file)}
    except ImportError as e:
        raise CheckpointError(f"{file}: reading it needs a package: pip install safetensors.") from e
    except Exception as e:
        raise CheckpointError(f"{file} is not a readable safetensors file ({_reason(e)}). {_what_else(file)}") from e


def write_weights(state, file):
    """Write a state dict: ``.safetensors``, or ``.pth`` as Detectron2 reads it.

    Args:
        file (path): a temporary one, as of :func:`~mic_det.utils.atomic_files.whole_file`: what fails leaves a part.

    Raises:
        CheckpointError: where the package safetensors is missing.
        OSError: where the disk refuses it.
    """
    state = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
    if str(file).endswith(".safetensors"):
        try:
            from safetensors.torch import save
        except ImportError as e:
            raise CheckpointError("writing .safetensors needs a package: pip install safetensors.") from e
        Path(file).write_bytes(save(state, metadata={"format": "pt"}))
        return
    try:
        with open(file, "wb") as f:  # not its path: torch would write that into the file
            torch.save({"model": state}, f)
    except RuntimeError as e:
        raise (disk_error(e) or e) from None


# where other programs keep the weights in what they save: Lightning and OpenMMLab, scripts, pycls
WEIGHTS_ENTRIES = ("model", "state_dict", "model_state_dict", "model_state")


def with_tensors(checkpoint, file):
    """A checkpoint whose ``model`` is a dict of tensors; a bare state dict becomes one.

    Raises:
        CheckpointError: where the file holds something else; names the entry.
    """
    entry = next((k for k in WEIGHTS_ENTRIES if isinstance(checkpoint.get(k), dict)), None)
    rest = {k: v for k, v in checkpoint.items() if k != entry} if entry else {}
    state = {}
    for name, value in (checkpoint[entry] if entry else checkpoint).items():
        if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "fiub":
            value = torch.from_numpy(np.array(value))
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"{file} holds no model's weights: its entry {str(name)!r} is {type(value).__name__}, not a tensor."
            )
        if problem := _no_dense_tensor(value):
            raise CheckpointError(
                f"{file}: its entry {str(name)!r} is {problem}. Only dense tensors of real numbers can be loaded: "
                "convert it (such as .to_dense() or .dequantize()), and save it again."
            )
        state[str(name)] = value
    if not state:
        raise CheckpointError(f"{file} holds no weights at all.")
    return {**rest, "model": state}


def _no_dense_tensor(tensor):
    """What keeps a tensor from being copied into a model; "" where nothing does."""
    kinds = {
        "quantised": tensor.is_quantized,
        "nested": tensor.is_nested,
        "sparse": tensor.layout != torch.strided,
        "meta (without values)": tensor.device.type == "meta",
        "complex": tensor.is_complex(),
    }
    return next((f"a {kind} tensor" for kind, found in kinds.items() if found), "")


def _check_regular(file):
    """Nothing waits for a pipe or a device; a missing file is left to the reader's error."""
    if os.path.isdir(file):
        raise CheckpointError(f"{file} is a folder. Name a file in it.")
    if os.path.exists(file) and not os.path.isfile(file):
        raise CheckpointError(f"{file} is no ordinary file (a pipe, a device or a socket). Name a file.")


def _check_claims(file, pickles=5):
    """Sizes are looked at before anything is expanded; see :func:`check_claims`."""
    try:
        check_claims(file, pickles)
    except TooMuch as e:
        raise CheckpointError(
            f"{file} is refused: {e}. Weights are dense tensors in an archive that is not compressed; a file that "
            "claims more than it has could fill the memory. Save it again with torch.save from a state dict."
        ) from None
    except Exception as e:  # a damaged file makes the scanner stumble in many ways
        if pickles == 1 and os.path.isfile(file):  # C's unpickler might still take what the scanner does not
            raise CheckpointError(f"{file} is not a readable pickle file ({_reason(e)}). {_what_else(file)}") from e


def _dict(data, file):
    if not isinstance(data, dict):
        raise CheckpointError(f"{file} holds {type(data).__name__}, not the weights of a model by their names.")
    return data


def _refusal():
    return (
        "Only tensors, arrays and plain containers are admitted, because anything else could run code. If you know "
        f"who made the file and trust them, add {TRUST}."
    )


def _what_else(file):
    size = os.path.getsize(file) if os.path.isfile(file) else 0
    if not size:
        return "The file is empty: fetch it again."
    kind = {"safetensors": ".safetensors", "pkl": ".pkl of Detectron2's zoo"}.get(file.rpartition(".")[2], ".pth")
    return f"It is damaged, or not a {kind} file: fetch it again."


def _reason(error):
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0][:160]


def _warn(file):
    logging.getLogger(__name__).warning("%s is loaded with any code that is in it (%s).", file, TRUST)


class _Refused(Exception):
    """A global that a pickle names and that is not admitted."""


class _PlainUnpickler(pickle.Unpickler):
    """Admits NumPy arrays and plain containers, refuses every other global."""

    ALLOWED = frozenset(
        {
            ("collections", "OrderedDict"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy._core.multiarray", "scalar"),
        }
    )

    def find_class(self, module, name):
        if (module, name) == ("_codecs", "encode"):  # how Python 2's bytes are written
            return _encode
        if (module, name) == ("builtins", "bytes") or (module, name) == ("__builtin__", "bytes"):
            return _no_bytes
        if (module, name) not in self.ALLOWED:
            raise _Refused(f"{module}.{name}")
        if name == "_reconstruct":
            return _empty_array
        if name == "scalar":
            return _array_scalar
        # called with a shape, the class itself would take memory by a number alone
        return _NoCall if name == "ndarray" else super().find_class(module, name)


class _NoCall:
    """Stands for ``numpy.ndarray``, which pickles name but never call."""

    def __init__(self, *args):
        raise _Refused("numpy.ndarray with a shape of its own")


def _empty_array(cls, shape, dtype):
    """NumPy's ``_reconstruct``: an array without elements, whose shape and bytes come afterwards."""
    if cls is not _NoCall or tuple(shape) != (0,):
        raise _Refused(f"numpy.ndarray of shape {shape}")
    return np.ndarray.__new__(np.ndarray, (0,), dtype)


def _array_scalar(dtype, content=b""):
    """NumPy's ``scalar``, whose size is that of its bytes."""
    if not isinstance(content, bytes) or len(content) != dtype.itemsize:
        raise _Refused(f"numpy scalar of {dtype.itemsize} bytes")
    return np.frombuffer(content, dtype)[0]


def _no_bytes(*args):
    """Protocol 2's empty bytes; with a number, as many would be made."""
    if args:
        raise _Refused("bytes of a number")
    return b""


def _encode(text, encoding="latin1"):
    """``codecs.encode`` for bytes that were written as text; other codecs would be imported by name."""
    if encoding not in ("latin1", "latin-1"):
        raise _Refused(f"_codecs.encode({encoding!r})")
    return text.encode("latin1")
