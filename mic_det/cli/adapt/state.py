"""The inputs and the progress of an output folder. The same call resumes; a call with other inputs is refused."""

import json
from pathlib import Path

from ...errors import ConfigError
from ...utils.atomic_files import write_whole

FILE = "adapt.json"


class State:
    """The file ``adapt.json`` of an output folder."""

    def __init__(self, folder, identity, trainings=()):
        """
        Args:
            folder (path): OUT.
            identity (dict[str, str]): argument -> a text that identifies its content.
            trainings (sequence of path): folders of the trainings. Until one of them exists, any call may use OUT.

        Raises:
            ConfigError: where the folder belongs to a call with other inputs, or its state cannot be read.
        """
        self.begun = any(f.exists() for f in trainings)
        self.folder, self.path, self.identity, self.done = Path(folder), Path(folder) / FILE, identity, []
        if self.path.is_file():
            self._continue()

    def _continue(self):
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
            before, self.done = dict(known["identity"]), list(known["done"])
        except (ValueError, KeyError, TypeError) as e:
            raise ConfigError(f"{self.path} cannot be read ({e}): name another --output.") from e
        if before != self.identity and not self.begun:
            self.done = []
            return
        for key, value in self.identity.items():
            if before.get(key, "") != value:  # earlier versions had fewer arguments
                raise ConfigError(
                    f"--output {self.folder} belongs to another call: {key} was {before.get(key) or 'not given'}, and "
                    f"is {value or 'not given'} now. Name another --output."
                )

    def finish(self, part):
        """Record that a part is done."""
        self.done.append(part)
        self.save()

    def save(self):
        content = json.dumps({"identity": self.identity, "done": self.done}, indent=1)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, lambda f: f.write(content.encode()))
        except OSError as e:
            raise ConfigError(f"cannot write {self.path} ({e.strerror or e}): check --output.") from e


def check_folder(folder, inputs=()):
    """
    Args:
        folder (path): OUT.
        inputs (sequence of path): folders that the command searches for images and labels.

    Raises:
        ConfigError: where the folder has files that this command did not write, or is inside of one of the inputs.
    """
    folder = Path(folder)
    real = folder.resolve()
    inside = next((p for p in inputs if Path(p).is_dir() and Path(p).resolve() in (real, *real.parents)), None)
    if inside:
        raise ConfigError(
            f"--output {folder} is in {inside}, so its files would be read as data: name a folder elsewhere."
        )
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output {folder} is a file: name a folder.")
    if folder.is_dir() and not (folder / FILE).is_file() and any(p.name != "data" for p in folder.iterdir()):
        raise ConfigError(f"--output {folder} has files, but no {FILE}: name a new folder.")
