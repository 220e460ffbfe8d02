"""A detector's predictions on images, in several views.

=========  ==========================================================================================
whole      the image
flip       the mirrored image; boxes are mirrored back
masked     30 % of its patches hidden
other      the student, where the teacher is measured, and the reverse
noise      the same detector with small multiplicative noise on its weights
dropout    the same backbone features, 15 % of them set to 0, in RPN and RoI heads
=========  ==========================================================================================
"""

import copy
import zlib

import torch
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Boxes
from torchvision.ops import clip_boxes_to_image

from ...modeling.inputs import preprocess
from ...modeling.masking import random_patch_mask
from ...modeling.regions import region_features
from ...modeling.tasks import RCNNTask
from .predictions import BoxPredictions

HIDDEN, PATCH_SHARE = 0.3, 0.04  # of the patches; patch side by the image's short side
WEIGHT_NOISE = 0.03  # standard deviation of the factor on each weight
DROPOUT = 0.15  # share of the features


@torch.no_grad()
def predict(detector, images, dropout=None):
    """Predictions of a detector in eval mode.

    Args:
        detector (nn.Module): Faster R-CNN (with distributions, features and removed boxes), or any of Detectron2's.
        images (list[Tensor]): (3, H, W) images as mappers give them.
        dropout (torch.Generator): of the detector's device; also predict with dropped features.

    Returns:
        list[BoxPredictions], or two of them with ``dropout`` (the second is None where the detector has no RPN).
    """
    if not RCNNTask.applies_to(detector):
        found = detector([{"image": x} for x in images])
        whole = [_arrays(x["instances"]) for x in found]
        return (whole, None) if dropout is not None else whole
    batch = preprocess(detector, [{"image": x} for x in images])
    features = detector.backbone(batch.tensor)
    whole = _from_features(detector, batch, features)
    if dropout is None:
        return whole
    return whole, _from_features(detector, batch, _dropped(features, dropout), details=False)


def _from_features(detector, batch, features, details=True):
    heads = detector.roi_heads
    proposals, _ = detector.proposal_generator(batch, features, None)
    vectors = region_features(heads, features, [x.proposal_boxes for x in proposals])
    outputs = heads.box_predictor(vectors)
    predictor, sizes = heads.box_predictor, batch.image_sizes
    boxes, probs = predictor.predict_boxes(outputs, proposals), predictor.predict_probs(outputs, proposals)
    least, most = predictor.test_score_thresh, predictor.test_topk_per_image
    found, rows = fast_rcnn_inference(boxes, probs, sizes, least, predictor.test_nms_thresh, most)
    results = []
    for x, row, p, b, v, size in zip(found, rows, probs, boxes, vectors.split([len(p) for p in probs]), sizes):
        kept = _arrays(x)
        if details:
            kept.probs, kept.features = _numpy(p[row]), _numpy(v[row])
            kept.removed = _removed(b, p, row, x.pred_classes, size, least)
        results.append(kept)
    return results


def _removed(boxes, probs, kept_rows, kept_classes, size, least):
    """What passes the score threshold, but is not among the kept (region, class) pairs."""
    scores = probs[:, :-1]
    passed = scores > least
    passed[kept_rows, kept_classes] = False
    rows, classes = passed.nonzero(as_tuple=True)
    boxes = boxes.reshape(len(boxes), -1, 4)
    chosen = boxes[rows, classes if boxes.shape[1] > 1 else 0]
    return BoxPredictions(*map(_numpy, (clip_boxes_to_image(chosen, size), scores[rows, classes], classes)))


def _dropped(features, generator):
    """Features, each 0 with probability 0.15; the rest is enlarged, so that the mean stays."""
    kept = {k: torch.rand(x.shape, generator=generator, device=x.device) >= DROPOUT for k, x in features.items()}
    return {k: x * kept[k] / (1 - DROPOUT) for k, x in features.items()}


def _arrays(instances):
    return BoxPredictions(*map(_numpy, (instances.pred_boxes.tensor, instances.scores, instances.pred_classes)))


def _numpy(tensor):
    tensor = tensor.detach().cpu()
    return tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()


def noisy_copy(detector, strength=WEIGHT_NOISE, seed=0):
    """A copy whose weights w are w (1 + strength e), e ~ N(0, 1); the same e for all detectors of an architecture."""
    noisy = copy.deepcopy(detector)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in noisy.parameters():
            p *= 1 + strength * torch.randn(p.shape, generator=generator).to(p)
    return noisy


def flipped(image):
    return image.flip(-1)


def unflipped(predictions, width):
    """Predictions on a mirrored image, in the frame of the image; in place."""
    for x in (predictions, predictions.removed):
        if x is not None:
            x.boxes = x.boxes.copy()
            x.boxes[:, [0, 2]] = width - x.boxes[:, [2, 0]]
    return predictions


def masked(detector, image, name):
    """The image with 30 % of its patches hidden, by the detector's mean colour; ``name`` decides which."""
    height, width = image.shape[-2:]
    generator = torch.Generator().manual_seed(zlib.crc32(str(name).encode()))
    side = max(1, round(PATCH_SHARE * min(height, width)))
    visible = random_patch_mask([(height, width)], (height, width), side, HIDDEN, generator=generator)[0]
    mean = detector.pixel_mean.view(-1, 1, 1).cpu()
    return torch.where(visible > 0, image.float(), mean)


def look(detector, images, other=None, views=("flip", "masked", "noise", "dropout", "other"), after_image=None):
    """Predictions in several views.

    Args:
        detector (nn.Module): in eval mode.
        images (list[(str, Tensor)]): N names and (3, H, W) images.
        other (nn.Module): the detector of the view "other"; None leaves it out.
        views (sequence of str): beside "whole".
        after_image (callable): called after each image.

    Returns:
        dict[str, list[BoxPredictions]]: N of each view.
    """
    wanted = {"whole", *views} - (set() if other is not None else {"other"})
    noisy = noisy_copy(detector) if "noise" in wanted else None
    found = {name: [] for name in wanted}
    for number, (name, image) in enumerate(images):
        batch = {"whole": image}
        if "flip" in wanted:
            batch["flip"] = flipped(image)
        if "masked" in wanted:
            batch["masked"] = masked(detector, image, name)
        # the whole image alone: dropped features are those of it
        device = detector.pixel_mean.device
        generator = torch.Generator(device).manual_seed(number) if "dropout" in wanted else None
        result = predict(detector, [image], generator)
        whole, dropped = result if generator is not None else (result, None)
        found["whole"] += whole
        if dropped is not None:
            found["dropout"] += dropped
        changed = [k for k in batch if k != "whole"]
        for k, x in zip(changed, predict(detector, [batch[k] for k in changed]) if changed else ()):
            found[k].append(unflipped(x, image.shape[-1]) if k == "flip" else x)
        if noisy is not None:
            found["noise"] += predict(noisy, [image])
        if "other" in wanted:
            found["other"] += predict(other, [image])
        if after_image:
            after_image()
    return {k: v for k, v in found.items() if v}


@torch.no_grad()
def true_box_features(detector, image, boxes):
    """The box head's features (R, D) of given boxes (R, 4) of an image; XYXY in its pixels."""
    batch = preprocess(detector, [{"image": image}])
    features = detector.backbone(batch.tensor)
    given = [Boxes(torch.as_tensor(boxes, dtype=torch.float32, device=batch.tensor.device))]
    return _numpy(region_features(detector.roi_heads, features, given))
