"""ImageNet weights of libraries of classifiers, by ``torchvision://NAME`` and ``timm://NAME``."""

import torchvision

from ..errors import CheckpointError
from ..modeling.timm_backbone import import_timm

TORCHVISION, TIMM = LIBRARIES = ("torchvision://", "timm://")


def fetch(url):
    """The state dict of a classifier, downloaded once.

    Raises:
        CheckpointError: where the library has no such weights, or they cannot be fetched.
        ConfigError: where timm is missing.
    """
    try:
        if url.startswith(TIMM):
            timm = import_timm(f"MODEL.WEIGHTS {url}")
            return timm.create_model(url[len(TIMM) :], pretrained=True).state_dict()
        weights = torchvision.models.get_model_weights(url[len(TORCHVISION) :]).DEFAULT
        return dict(weights.get_state_dict(progress=True))
    except OSError as e:
        raise CheckpointError(f"cannot fetch {url} ({e}). Download it, and give MODEL.WEIGHTS the file.") from e
    except (ValueError, RuntimeError) as e:
        library = url.partition(":")[0]
        raise CheckpointError(f"MODEL.WEIGHTS is {url}: {library} has no such model ({e}).") from e
