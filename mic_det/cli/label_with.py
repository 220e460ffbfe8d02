"""Boxes of a detector of torchvision in a folder of images, as a file for ``MODEL.MIC.LABELLER``."""

import inspect
from pathlib import Path

import numpy as np
import torch
import torchvision
from detectron2.data.detection_utils import read_image
from tqdm import tqdm

from ..checkpoint.formats import read_torch, with_tensors
from ..data.files import list_images
from ..errors import CheckpointError, ConfigError, DataError
from ..inference.detections import Detections
from ..inference.media import Frame, Source
from ..inference.results import FILES, Predictions
from ..utils.outputs import Outputs

FILE = "labels.json"
COCO = torchvision.models.detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]


def main(args):
    files = list_images(args.images)
    if not files:
        raise DataError(f"--images {args.images}: the folder has no images.")
    outputs = Outputs(args.output, "label_with", [args.images, args.weights], args.overwrite)
    outputs.check([FILE])
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    names = list(args.classes or COCO[1:])
    model = torchvision_detector(args.model, len(names), args.weights, args.trust_checkpoint).to(device)
    # torchvision's label 1 is the first class; COCO's list has names of ids that it does not use
    predictions = Predictions([(i, name) for i, name in enumerate(names, start=1) if name != "N/A"])
    places = {i: place for place, (i, _) in enumerate(predictions.classes)}
    for file in tqdm(files, unit="image"):
        rgb = _read(file)
        found = detect(model, rgb, args.confidence_threshold, places)
        name = file.relative_to(args.images).as_posix()
        predictions.add(Frame(Source(file, name), rgb), found)
    outputs.write_text(FILE, predictions.coco()[FILES["coco"][0]])
    print(f"{Path(args.output) / FILE}: {len(predictions.annotations)} boxes in {len(files)} images")


def torchvision_detector(name, num_classes, weights, trust=False):
    """A detector of torchvision with the weights of a file, in eval mode.

    Args:
        name (str): of ``torchvision.models.detection``.
        num_classes (int): without background.
        weights (str): file of its state dict.
        trust (bool): run code in the file.

    Raises:
        ConfigError: an unknown model. CheckpointError: weights that are not of this model and number of classes.
    """
    known = torchvision.models.list_models(torchvision.models.detection)
    if name not in known:
        raise ConfigError(f"--model {name} is no detector of torchvision: use one of {', '.join(known)}.")
    builder = torchvision.models.get_model_builder(name)
    if "num_classes" not in inspect.signature(builder).parameters or "keypoint" in name:
        raise ConfigError(f"--model {name} has other classes than boxes: use one of {', '.join(known)}.")
    if not Path(weights).is_file():
        raise CheckpointError(f"there is no file --weights {weights}.")
    model = builder(weights=None, weights_backbone=None, num_classes=num_classes + 1)
    state = with_tensors(read_torch(str(weights), trust), weights)["model"]
    own = model.state_dict()
    wrong = [k for k in own if k not in state or state[k].shape != own[k].shape]
    if wrong:
        raise CheckpointError(
            f"--weights {weights} is not for --model {name} with {num_classes} classes: {len(wrong)} of {len(own)} "
            f"tensors are missing or of another shape, such as {wrong[0]}. Name the classes of the weights, without "
            "background, in --classes."
        )
    model.load_state_dict(state, strict=False)
    return model.eval()


def _read(file):
    try:
        return read_image(str(file), "RGB")
    except Exception as e:  # PIL raises errors of all kinds
        raise DataError(f"cannot read image {file} ({e}): replace or remove it.") from e


@torch.no_grad()
def detect(model, rgb, least_score, places):
    """Detections of a torchvision detector in an image.

    Args:
        model (nn.Module): in eval mode.
        rgb (ndarray): (H, W, 3) uint8.
        least_score (float): of a box.
        places (dict): index of the class by torchvision's label; other labels are left out.

    Returns:
        Detections: in the image's pixels.
    """
    device = next(model.parameters()).device
    image = torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))).to(device).float() / 255
    found = {k: v.cpu().numpy() for k, v in model([image])[0].items() if k in ("boxes", "scores", "labels")}
    kept = [i for i, s in enumerate(found["scores"]) if s >= least_score and int(found["labels"][i]) in places]
    classes = np.array([places[int(found["labels"][i])] for i in kept], dtype=np.int64)
    return Detections(found["boxes"][kept], found["scores"][kept], classes)
