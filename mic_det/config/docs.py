"""Makes ``docs/configuration.md`` from keys.py: ``python -m mic_det.config.docs docs/configuration.md``."""

import re
import sys
from pathlib import Path

from .keys import SECTIONS
from .renamed import REMOVED_VALUES, RENAMED, RENAMED_VALUES

INTRO = """\
<!-- Made by `python -m mic_det.config.docs docs/configuration.md` from mic_det/config/*keys.py. Change those files. -->
# Configuration

These are the keys that `mic_det.add_mic_config(cfg)` adds to
[Detectron2's](https://detectron2.readthedocs.io/en/latest/modules/config.html). Set them in a YAML file, or as
`KEY VALUE` on the command line of any tool. A wrong value stops the program with an error that names the key.

"Published" is the value of the paper or of its authors' code. Sections and equations are the paper's: Hoyer et al.,
"MIC: Masked Image Consistency for Context-Enhanced Domain Adaptation", CVPR 2023. A default without a source is our
own choice. [differences.md](differences.md) compares our configs with the published ones.
"""
OLD = """\
## Old names

These names of earlier versions still work: in YAML files, as `KEY VALUE` and in checkpoints. A warning shows the
current name. It is an error to set a key by both names. The old name of a section stands for all keys below it.
"""
HEAD = ["key", "default", "allowed", "what it does", "unit", "source"]


def page():
    """The page's text, in Markdown."""
    parts = [INTRO]
    for section in SECTIONS:
        rows = [[f"`{k.name}`", f"`{_shown(k.default)}`", k.check.words, k.doc, k.unit, k.source] for k in section.keys]
        parts.append(f"## {section.title}\n\n" + (f"{section.doc}\n\n" if section.doc else "") + _table(HEAD, rows))
    old = [[f"`{_earlier(a)}`", f"`{b}`"] for a, b in RENAMED.items()]
    old += [[f"`{key}: {a}`", f"`{key}: {b}`"] for (key, a), b in RENAMED_VALUES.items()]
    old += [[f"`{key}: {a}` (removed)", f"`{key}: {b}`"] for (key, a), (b, _) in REMOVED_VALUES.items()]
    parts.append(OLD + "\n" + _table(["old name", "name"], old))
    return "\n".join(parts)


def _shown(value):
    return "{}" if isinstance(value, dict) else repr(value)


def _earlier(name):
    """An old name, below the old name of its section."""
    sections = [(old, new) for old, new in RENAMED.items() if name.startswith(f"{new}.")]
    return sections[0][0] + name[len(sections[0][1]) :] if sections else name


def _table(head, rows):
    lines = [head, ["---"] * len(head), *([re.sub(r"([|*<])", r"\\\1", text) for text in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
