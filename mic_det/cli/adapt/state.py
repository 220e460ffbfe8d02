"""What OUT was made from, and how far it has come: the same call continues, another one is refused."""

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
            identity (dict[str, str]): what the user named -> what it is.
            trainings (sequence of path): folders of the trainings. Before one is there, any call may have OUT.

        Raises:
            ConfigError: where the folder is of another call, or has files but is of none.
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
            if before.get(key) != value:
                raise ConfigError(
                    f"--output {self.folder} belongs to another call: {key} was {before.get(key) or 'not given'}, and "
                    f"is {value or 'not given'} now. Name another --output."
                )

    def finish(self, part):
        """Note that a part need not be done again."""
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
        inputs (sequence of path): folders that are searched for images and labels.

    Raises:
        ConfigError: where the folder has files that no call of this command made, or lies in one that is searched.
    """
    folder = Path(folder)
    real = folder.resolve()
    inside = next((p for p in inputs if Path(p).is_dir() and Path(p).resolve() in (real, *real.parents)), None)
    if inside:
        raise ConfigError(
            f"--output {folder} is in {inside}, where its files would be taken for data: name another one."
        )
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output {folder} is a file: name a folder.")
    if folder.is_dir() and not (folder / FILE).is_file() and any(p.name != "data" for p in folder.iterdir()):
        raise ConfigError(f"--output {folder} has files, but no {FILE}: name a new folder.")
