"""Reads config files and their bases before Detectron2 merges them: plain values only, with the line of each key."""

import os

import yaml
from detectron2.utils.file_io import PathManager
from fvcore.common.config import BASE_KEY

from ..errors import ConfigError
from ..utils.ordinary_files import absence, read_text
from .renamed import both_given, current_name, note_current

REMOTE = ("http://", "https://")
MOST_BYTES = 2**20  # of a file; our configs have a few thousand, and reading a megabyte of YAML takes about a second
MOST_VALUES = 10**5  # after aliases are resolved; Detectron2 has about 400 keys, and only data sets have long lists
DEEPEST = 50


def check_config_file(file):
    """Read a config file and its bases (``_BASE_``). Nothing in them is executed.

    Args:
        file (str): path of a YAML file.

    Returns:
        dict[str, str]: dotted key, by its current name -> "FILE, line N", the place that sets it last.

    Raises:
        ConfigError: a missing file, a circle of bases, broken YAML, a tag that builds objects, a key that one
            mapping has twice; names file and line.
    """
    places = {}
    _read(str(file), (), places)
    return places


def _read(file, above, places):
    name = os.path.realpath(file) if not file.startswith(REMOTE) else file
    if name in [n for n, _ in above]:
        circle = " -> ".join([f for _, f in above] + [file])
        raise ConfigError(f"{above[-1][1]}: the files of {BASE_KEY} form a circle ({circle}): remove one.")
    root = _compose(file, above)
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{file} is not a mapping of keys to values, which a config must be.")
    own = _Keys(file).collect(root).places
    bases = next((v for k, v in root.value if k.value == BASE_KEY), None)
    for base in [] if bases is None else bases.value if isinstance(bases, yaml.SequenceNode) else [bases]:
        if not isinstance(base, yaml.ScalarNode) or not base.value:
            raise ConfigError(f"{_place(file, base)}: {BASE_KEY} must be a file name or a list of them.")
        path = os.path.expanduser(base.value)
        if not path.startswith(("/", *REMOTE)):
            path = os.path.join(os.path.dirname(file), path)
        _read(path, (*above, (name, file)), places)
    places.update(own)


class TooLarge(ValueError):
    """YAML text that is larger than a config, or becomes larger when its aliases are resolved."""


class BadText(ValueError):
    """A text with a character that file names and logs cannot have."""


def compose_bounded(text):
    """The tree of nodes of a YAML text, and its plain values.

    Raises:
        TooLarge: where the text has too many values; raised before any value is made.
        BadText: where a text in it cannot be the name of a file.
        yaml.YAMLError, ValueError, RecursionError: where it is not YAML of plain values.
    """
    if len(text) > MOST_BYTES:
        raise TooLarge(f"it has {len(text)} characters; a config has at most {MOST_BYTES}")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    count, depth = _written_out(root, {})
    if count > MOST_VALUES:
        raise TooLarge(f"its YAML aliases stand for {count:.0e} values; a config has at most {MOST_VALUES}")
    if depth > DEEPEST:
        raise TooLarge(f"its values are nested {depth} deep; a config's at most {DEEPEST}")
    try:
        return root, yaml.safe_load(text)
    except (AttributeError, TypeError, LookupError, ArithmeticError) as e:  # the text does not fit its tag
        raise ValueError(f"a value does not fit its tag: {e}") from e


def _written_out(node, known):
    """(number of nodes, depth) of a tree. An alias counts as the nodes that it stands for, a circular one as one."""
    if isinstance(node, (yaml.ScalarNode, type(None))):
        if node and ("\0" in node.value or any("\ud800" <= c <= "\udfff" for c in node.value)):
            raise BadText(f"line {node.start_mark.line + 1} has a NUL character or half of a surrogate pair in a text")
        return 1, 1
    if id(node) not in known:
        known[id(node)] = 1, 1
        parts = node.value if isinstance(node, yaml.SequenceNode) else [x for pair in node.value for x in pair]
        found = [_written_out(x, known) for x in parts]
        known[id(node)] = 1 + sum(n for n, _ in found), 1 + max((d for _, d in found), default=0)
    return known[id(node)]


def _compose(file, above):
    """The file's tree of nodes, from which a safe loader can make values."""
    if os.path.exists(file) and not (os.path.isfile(file) or os.path.isdir(file)):  # reading a pipe would wait for ever
        raise ConfigError(f"{file} {absence(file)}: give a YAML file.")
    try:
        return compose_bounded(read_text(PathManager.get_local_path(file)))[0]  # downloads remote files
    except (TooLarge, BadText) as e:
        raise ConfigError(f"{file} is refused: {e}.") from None
    except yaml.constructor.ConstructorError as e:
        problem = e.problem.replace("tag:yaml.org,2002:", "!!")
        raise ConfigError(
            f"{file}, line {e.problem_mark.line + 1}: {problem}: a config must have plain values, which run no code."
        ) from None
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{file}{line} is not valid YAML: {e.problem or e.context}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise ConfigError(f"{file} is not a YAML file ({' '.join(str(e).split())[:150]}).") from None
    except OSError as e:
        base = f", the {BASE_KEY} of {above[-1][1]}" if above else ""
        if not os.path.exists(file):
            raise ConfigError(f"there is no config file {file}{base}.") from None
        raise ConfigError(f"cannot read the config file {file}{base} ({e.strerror or e}).") from None


class _Keys:
    """The keys of one file: the line of each, and which of them are old names."""

    def __init__(self, file, once=True):
        """
        Args:
            once (bool): whether it is an error to set a key twice by the same name.
        """
        self.file, self.once = file, once
        self.places = {}  # dotted key, by its current name -> "FILE, line N"
        self.renamed = {}  # old name -> name
        self.edits = {}  # (begin, end) in the text -> (old name, current name)

    def collect(self, node, prefix="", new_prefix="", above=frozenset()):
        """Collect the keys of a mapping and of those below it.

        Raises:
            ConfigError: a key that is set twice, or by two names; a mapping that contains itself.
        """
        if id(node) in above:
            raise ConfigError(f"{_place(self.file, node)}: this mapping contains itself: remove the YAML alias.")
        given = {}
        for key, value in node.value:
            old = f"{prefix}{key.value}"
            text = value.value if isinstance(value, yaml.ScalarNode) else None
            new, known = note_current(old, current_name(f"{new_prefix}{key.value}"), text, self.renamed)
            if given.get(new, old) != old:
                raise ConfigError(f"{_place(self.file, key)}: {both_given(given[new], old, new)}")
            if new in given and self.once:
                raise ConfigError(f"{_place(self.file, key)}: {old} is set twice: remove one of the two.")
            given[new] = old
            self._edit(key, key.value, new[len(new_prefix) :])
            self._edit(value, text, known)
            self.places[new] = _place(self.file, key)
            if isinstance(value, yaml.MappingNode):
                self.collect(value, f"{old}.", f"{new}.", above | {id(node)})
        return self

    def _edit(self, node, old, new):
        if new != old:
            self.edits[node.start_mark.index, node.end_mark.index] = old, new


def with_current_names(text, file):
    """A config's text with the current names of its keys. Nothing else in the text changes.

    Returns:
        (str, dict[str, str]): the text, and old name -> name.

    Raises:
        ConfigError: a key that is set by two names.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):  # the code that reads the values reports the error
        return text, {}
    if not isinstance(root, yaml.MappingNode):
        return text, {}
    keys = _Keys(file, once=False).collect(root)
    for (begin, end), (old, new) in sorted(keys.edits.items(), reverse=True):
        before, found, after = text[begin:end].rpartition(old)  # keeps quotes, and a YAML anchor before them
        text = text[:begin] + (before + new + after if found else new) + text[end:]
    return text, keys.renamed


def _place(file, node):
    return f"{file}, line {node.start_mark.line + 1}"
