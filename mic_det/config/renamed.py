"""Old names of config keys. They still work."""

import logging

from detectron2.utils import comm

from ..errors import ConfigError

# Old name -> name. A section stands for all keys below it. A key in a renamed section is listed below the section's new
# name. Only the last part of a name may differ.
RENAMED = {
    "DATASETS.DECLARED": "DATASETS.CUSTOM",
    "MODEL.MIC.COLOR": "MODEL.MIC.STRONG_AUG",
    "MODEL.MIC.STRONG_AUG.SOURCE": "MODEL.MIC.STRONG_AUG.ON_SOURCE",
    "MODEL.MIC.WATCH": "MODEL.MIC.MONITOR",
    "MODEL.MIC.MONITOR.STEPS": "MODEL.MIC.MONITOR.PATIENCE",
    "MODEL.MIC.CONSISTENCY.RPN_LOC_WEIGHT": "MODEL.MIC.CONSISTENCY.RPN_BOX_REG_WEIGHT",
    "MODEL.MIC.CONSISTENCY.ROI_LOC_WEIGHT": "MODEL.MIC.CONSISTENCY.ROI_BOX_REG_WEIGHT",
    "MODEL.MIC.ALIGNMENT.CONSISTENCY": "MODEL.MIC.ALIGNMENT.AGREEMENT",
    "MODEL.MIC.ALIGNMENT.IMAGE.REVERSAL_WEIGHT": "MODEL.MIC.ALIGNMENT.IMAGE.GRL_WEIGHT",
    "MODEL.MIC.ALIGNMENT.INSTANCE.REVERSAL_WEIGHT": "MODEL.MIC.ALIGNMENT.INSTANCE.GRL_WEIGHT",
    "MODEL.MIC.ALIGNMENT.AGREEMENT.REVERSAL_WEIGHT": "MODEL.MIC.ALIGNMENT.AGREEMENT.GRL_WEIGHT",
}
# (name of a key, old value) -> value
RENAMED_VALUES = {("MODEL.META_ARCHITECTURE", "MICRCNN"): "MIC"}

# What was taken out: (name of a key, old value) -> (the value that is used instead, why)
REMOVED_VALUES = {
    ("MODEL.MIC.PSEUDO_BOXES.ADAPT", "running_mean"): (
        "none",
        "It gained nothing on any data (docs/results.md). With 'class_shares', the thresholds follow the teacher, too.",
    ),
}  # fmt: skip


def current_name(key):
    """The current name of a dotted key."""
    for old, new in RENAMED.items():
        if key == old or key.startswith(old + "."):
            key = new + key[len(old) :]
    return key


def current_value(key, value):
    """The current name of a value. ``key`` is the current name of its key."""
    return RENAMED_VALUES.get((key, value), value) if isinstance(value, str) else value


def current_settings(settings):
    """A flat dict of settings with their current names."""
    return {current_name(k): current_value(current_name(k), v) for k, v in settings.items()}


def current_pairs(pairs):
    """``[KEY, VALUE, ...]`` with the current names of keys.

    Returns:
        (list, dict[str, str]): the pairs, and old name -> name.
    """
    pairs, given, renamed = list(pairs), {}, {}
    for i in range(0, len(pairs) - 1, 2):
        old = str(pairs[i])
        pairs[i : i + 2] = note_current(old, current_name(old), pairs[i + 1], renamed)
        if given.setdefault(pairs[i], old) != old:
            raise both_given(given[pairs[i]], old, pairs[i])
    return pairs, renamed


def current_tree(tree):
    """Nested dicts with the current names of keys.

    Returns:
        (dict, dict[str, str]): new dicts, and old name -> name.
    """
    renamed = {}
    return _tree(tree, "", "", renamed), renamed


def _tree(tree, prefix, new_prefix, renamed):
    result, given = {}, {}
    for key, value in tree.items():
        old = f"{prefix}{key}"
        new, value = note_current(old, current_name(f"{new_prefix}{key}"), value, renamed)
        if given.setdefault(new, old) != old:
            raise both_given(given[new], old, new)
        value = _tree(value, f"{old}.", f"{new}.", renamed) if isinstance(value, dict) else value
        result[new[len(new_prefix) :]] = value
    return result


def note_current(old, new, value, renamed):
    """(``new``, the value's current name). Changed names are added to ``renamed``."""
    if new != old and not any(old.startswith(f"{x}.") and renamed[x] + old[len(x) :] == new for x in renamed):
        renamed[old] = new
    known = current_value(new, value)
    if known is not value:
        renamed[f"{new} {value}"] = f"{new} {known}"
    removed = REMOVED_VALUES.get((new, value)) if isinstance(value, str) else None
    if removed:
        known = removed[0]
        renamed[f"{new} {value}"] = Removed(f"{new} {value} was removed, and {new} {known} is used. {removed[1]}")
    return new, known


class Removed(str):
    """A sentence about a removed value, among the current names."""


def both_given(first, second, new):
    """The error for a key that is set by its old name and by its current one."""
    old = first if first != new else second
    return ConfigError(f"{old} is the old name of {new}, and both are set: keep only {new}.")


def warn_of_old_names(source, renamed):
    """Log one warning that names the keys to use instead, unless ``renamed`` (old name -> name) is empty."""
    if not comm.is_main_process():
        return
    logger = logging.getLogger(__name__)
    for text in renamed.values():
        if isinstance(text, Removed):
            logger.warning("%s: %s", source, text)
    names = "; ".join(f"{old} is now {new}" for old, new in renamed.items() if not isinstance(new, Removed))
    if names:
        logger.warning("%s has old names of keys, which still work: %s.", source, names)
