"""A static page that runs exported models in the browser, by onnxruntime-web from npm."""

import contextlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from ..errors import ConfigError
from ..utils.outputs import Outputs

PAGE = Path(__file__).parent / "page"
PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def write_page(folder, models, inputs=(), overwrite=False):
    """Write the page with its models; any static server can serve the folder.

    Args:
        folder (path): made where it is missing.
        models (list[(str, callable)]): title and a function that writes the model to a path and returns its metadata;
            "source-only" stands before "adapted".
        inputs (sequence of path), overwrite (bool): see :class:`~mic_det.utils.outputs.Outputs`.

    Raises:
        ConfigError: where the runtime is not in ``node_modules``, and npm cannot fetch it.
    """
    outputs = Outputs(folder, "export", inputs, overwrite)
    pages = sorted(p.name for p in PAGE.iterdir())
    files = [f"{title}.onnx" for title, _ in models]
    outputs.check([*pages, *files, *RUNTIME, "models.json"])
    with _runtime() as dist:
        listed = []
        for (title, write), name in zip(models, files):
            with outputs.writing(name) as file:
                listed.append({"title": title, "file": name, "metadata": write(file)})
        for source in [*(PAGE / p for p in pages), *(dist / name for name in RUNTIME)]:
            with outputs.writing(source.name) as file:
                shutil.copyfile(source, file)
    outputs.write_text("models.json", json.dumps(listed, ensure_ascii=False, indent=1))


@contextlib.contextmanager
def _runtime():
    """The folder with onnxruntime-web's files: that of ``node_modules``, else what npm fetches."""
    installed = Path("node_modules", PACKAGE, "dist")
    if all((installed / name).is_file() for name in RUNTIME):
        yield installed
        return
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", f"{PACKAGE}@{VERSION}"]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as e:
            reason = (getattr(e, "stderr", "") or str(e)).strip().splitlines()[-1]
            raise ConfigError(
                f"--web needs {PACKAGE} from npm ({reason}): install it here by `npm install {PACKAGE}@{VERSION}`."
            ) from e
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            for name in RUNTIME:
                content = archive.extractfile(f"package/dist/{name}").read()
                Path(folder, name).write_bytes(content)
        yield Path(folder)
