"""Access to the keys of a config by their dotted names."""

import copy

from detectron2.config import CfgNode as CN

from ..errors import ConfigError


def flat_keys(cfg, prefix=""):
    """Dotted names of all keys that have a value, except custom data sets, whose names are the user's."""
    for key, value in cfg.items():
        if isinstance(value, dict) and f"{prefix}{key}" != "DATASETS.CUSTOM":
            yield from flat_keys(value, f"{prefix}{key}.")
        elif not isinstance(value, dict):
            yield f"{prefix}{key}"


def value_of(cfg, key, **default):
    """A key's value by its dotted name; ``default`` where there is no such key.

    Raises:
        KeyError: where there is no such key and no default.
    """
    node = cfg
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return default["default"]
        node = node[part]
    return node


def add_keys(cfg, keys):
    """Add keys with their defaults, in place.

    Args:
        keys (iterable of Key): the keys to add.
    """
    for key in keys:
        *parents, last = key.name.split(".")
        node = cfg
        for part in parents:
            node = node.setdefault(part, CN())
        node[last] = copy.deepcopy(key.default)


def check_key(cfg, name, rule):
    """
    Raises:
        ConfigError: names the key, its value and what is allowed.
    """
    missing = object()
    value = value_of(cfg, name, default=missing)
    if value is missing:
        raise ConfigError(f"there is no key {name}: call mic_det.add_mic_config(cfg) before anything is merged.")
    if not rule.allows(value):
        shown = list(value) if isinstance(value, tuple) else value
        raise ConfigError(f"{name} is {shown!r}: use {rule.words}.")
