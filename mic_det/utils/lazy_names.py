"""Names of a package whose modules are imported at their first use (PEP 562): importing mic_det stays cheap."""

import importlib


def lazy_names(package, modules):
    """``__getattr__`` and ``__dir__`` for a package's ``__init__``.

    Args:
        package (str): its ``__name__``.
        modules (dict[str, str]): public name -> relative module that defines it.
    """

    def __getattr__(name):
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(modules[name], package), name)

    def __dir__():
        return sorted({*importlib.import_module(package).__dict__, *modules})

    return __getattr__, __dir__
