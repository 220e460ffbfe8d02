"""What a file of weights claims to hold, looked at before anything in it is expanded or rebuilt."""

import io
import mmap
import os
import pickletools
import zipfile

# Of what torch.load(weights_only=True) admits, what takes memory by a number in the file instead of by its content,
# and tensors that no model here can be filled with.
NO_WEIGHTS = {
    "builtins bytearray": "a bytearray",
    "__builtin__ bytearray": "a bytearray",
    "torch._utils _rebuild_qtensor": "a quantised tensor",
    "torch._utils _rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils _rebuild_meta_tensor_no_storage": "a meta tensor, which has no values",
    "torch._utils _rebuild_nested_tensor": "a nested tensor",
    "torch._utils _rebuild_wrapper_subclass": "a tensor subclass without values",
}


class TooMuch(ValueError):
    """A file that claims more than it has; the message says what."""


def check_claims(file, pickles=5):
    """Refuse a file whose archive or pickles claim more memory than the file has bytes.

    torch stores tensors without compression, so nothing in an honest file is larger than the file.

    Args:
        file (str): a regular file: torch's archive, pickles, or anything else, which the reader will name.
        pickles (int): how many stand in a row before other content; torch's old format has five.

    Raises:
        TooMuch: a compressed archive, as a zip bomb is; an object that takes memory by a number alone.
        ValueError: a damaged pickle.
    """
    size = os.path.getsize(file)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            check_archive(archive, size)
            for name in archive.namelist():
                if name.rpartition("/")[2] == "data.pkl":
                    _scan(io.BytesIO(archive.read(name)), size)
    elif size:
        with open(file, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for _ in range(pickles):
                _scan(content, size)
                if content.tell() >= size:
                    return


def check_archive(archive, size):
    """Refuse an open ZipFile whose entries are larger together than the file's ``size`` in bytes."""
    claimed = sum(x.file_size for x in archive.infolist())
    if claimed > size:
        raise TooMuch(f"its entries claim {claimed} bytes, but the file has {size}")


def _scan(stream, size):
    """Go through one pickle without building anything."""
    for opcode, arg, _ in pickletools.genops(stream):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and arg > size:
            raise TooMuch(f"it asks for a table of {arg} entries, but the file has {size} bytes")
        if opcode.name == "BYTEARRAY8":
            raise TooMuch("it holds a bytearray")
        if opcode.name == "GLOBAL":
            what = NO_WEIGHTS.get(arg)
            module, _, name = arg.partition(" ")
            if what is None and module.split(".")[0] == "torch" and name.endswith("Tensor"):
                what = f"a {module}.{name} of any size"
            if what:
                raise TooMuch(f"it holds {what}")
