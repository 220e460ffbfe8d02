"""Images as models take them: normalised and padded; and as the teacher sees them."""

from dataclasses import dataclass
from typing import Optional

from detectron2.structures import ImageList
from torch import nn


@dataclass
class TeacherView:
    """N whole images as the teacher sees them.

    ``inputs`` are the dicts of the student's views of them, ``sizes`` height and width of those. ``images`` is the
    normalised ``ImageList`` and ``features`` the backbone's maps by name, None where no task of the model needs them.
    ``scales`` are the factors (x, y) from the student's view to the teacher's. ``step`` is the number of optimizer
    steps that were taken before.
    """

    inputs: list
    images: ImageList
    features: Optional[dict]
    sizes: list
    scales: list
    step: int = 0


def preprocess(model, batched_inputs):
    """Normalised, padded ``ImageList`` of a detector or of a ``SemanticSegmentor``, which lacks the method."""
    if hasattr(model, "preprocess_image"):
        return model.preprocess_image(batched_inputs)
    images = [(x["image"].to(model.device) - model.pixel_mean) / model.pixel_std for x in batched_inputs]
    return ImageList.from_tensors(
        images, model.backbone.size_divisibility, padding_constraints=model.backbone.padding_constraints
    )


def encoder(model):
    """What makes features of normalised, padded images: the backbone, or more of a model that has ``encode``."""
    return getattr(model, "encode", None) or model.backbone


def unnormalised(model, images):
    """The images of a normalised, padded ``ImageList`` in the range of the model's inputs, without padding."""
    pixels = images.tensor * model.pixel_std + model.pixel_mean
    return [x[:, :h, :w] for x, (h, w) in zip(pixels, images.image_sizes)]


def teacher_view(model, batched_inputs, input_size=0, with_features=True, step=0):
    """Images as the teacher sees them.

    Args:
        model (nn.Module): in eval mode.
        batched_inputs (list[dict]): N mapped images.
        input_size (int): short side in pixels at which the teacher sees them; 0 = as they are.
        with_features (bool): whether its backbone looks at them.
        step (int): optimizer steps that were taken before.

    Returns:
        TeacherView
    """
    inputs, scales = _inputs_at(batched_inputs, input_size, model.device)
    images = preprocess(model, inputs)
    features = encoder(model)(images.tensor) if with_features else None
    sizes = [tuple(x["image"].shape[-2:]) for x in batched_inputs]
    return TeacherView(batched_inputs, images, features, sizes, scales, step)


def _inputs_at(batched_inputs, input_size, device):
    """Target images at the teacher's input size, and the factors (x, y) from the student's view."""
    inputs, scales = [], []
    for x in batched_inputs:
        image = x["image"]
        height, width = image.shape[-2:]
        if input_size:
            factor = input_size / min(height, width)
            size = (round(height * factor), round(width * factor))
            image = nn.functional.interpolate(
                image[None].to(device).float(), size=size, mode="bilinear", antialias=True
            )[0]
        inputs.append({"image": image})
        scales.append((image.shape[-1] / width, image.shape[-2] / height))
    return inputs, scales
