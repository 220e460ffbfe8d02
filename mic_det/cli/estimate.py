"""Estimate AP50 without labels."""

import json
import logging
import math
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..config.label_kinds import label_kinds, num_classes
from ..data.corruptions import CORRUPTIONS
from ..data.custom_sets import targets_alone
from ..engine.setup import config_of
from ..errors import ConfigError, DataError
from ..evaluation.label_free.average_precision import MatchedBoxes
from ..evaluation.label_free.estimation import estimate, pooled, prediction_powered
from ..evaluation.label_free.measure import dicts_of, read_labelled
from ..evaluation.label_free.meta_set import CLASS_FEATURES, FEATURES, build_meta_set, set_statistics, subset
from ..experiments.run_checkpoints import ImageSets
from ..inference.predictor import load_model
from ..utils.outputs import Outputs
from ..utils.printable import printable
from ..utils.progress import progress_bar

FORMAT = "mic_det estimate 1"
RESAMPLES = 300


def main(args):
    cfg = config_of(args)
    if "boxes" not in label_kinds(cfg):
        raise ConfigError("the config's model predicts no boxes: AP50 is of boxes.")
    output = Path(args.output)
    outputs = Outputs(output.parent, "estimate", [args.config_file, args.weights or ""], args.overwrite)
    outputs.check([output.name])
    logging.getLogger("detectron2").setLevel(logging.WARNING)
    logging.getLogger("fvcore").setLevel(logging.WARNING)
    model = load_model(cfg, args.weights, args.trust_checkpoint)
    sets = ImageSets(args.images, args.max_images, 0)
    target, _ = sets.of(cfg)
    source = labelled_images(cfg, args.source, args.source_images, "--source")
    labelled = few_labels(cfg, args) if args.labels else None
    total = len(CORRUPTIONS) * len(source) + len(target) + (len(labelled) if labelled else 0)
    with progress_bar(total, "image") as progress:
        content = estimates(model, num_classes(cfg), source, target, labelled, progress.update)
    names = MetadataCatalog.get(args.source).get("thing_classes") or range(num_classes(cfg))
    content = {
        "format": FORMAT, "weights": args.weights or cfg.MODEL.WEIGHTS, "images": sets.target_name(cfg),
        "num_images": len(target), "source": args.source, "source_images": len(source), "labels": args.labels,
        **content,
    }  # fmt: skip
    content["classes"] = dict(zip(map(str, names), content["classes"]))
    outputs.write_text(output.name, json.dumps(content, indent=1))
    show(content, output)


def labelled_images(cfg, name, most, option):
    if name not in DatasetCatalog.list():
        raise ConfigError(f"{option} {name!r} is neither registered nor in DATASETS.CUSTOM.")
    dicts = dicts_of(name, most)
    if not any(d.get("annotations") for d in dicts):
        hint = " Labels of a set of DATASETS.TARGET are not read: declare it again by another name."
        raise DataError(f"{option} {name}: the set has no labels.{hint if name in targets_alone(cfg) else ''}")
    return read_labelled(cfg, dicts)


def few_labels(cfg, args):
    """K labelled target images, drawn at random."""
    name = args.labelled or next(iter(cfg.DATASETS.TEST), "")
    images = labelled_images(cfg, name, 0, "--labelled")
    if len(images) < args.labels:
        raise DataError(f"--labels {args.labels}: {name} has {len(images)} images.")
    chosen = np.random.default_rng(args.seed).choice(len(images), args.labels, replace=False)
    return subset(images, sorted(chosen.tolist()))


def estimates(model, count, source, target, labelled=None, after_image=None):
    """Estimates of a model of ``count`` classes; all images are :class:`Images`.

    Returns:
        dict: ``AP50``: value, low, high, outside; ``classes``: one such dict or None each; ``meta_set``; with labels
        also ``without_labels`` and ``with_labels``, which AP50 is pooled of.
    """
    meta = build_meta_set(model, source, count, after_image=after_image)
    seen = set_statistics(model, target.items, count, after_image)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(target), [1 / len(target)] * len(target), RESAMPLES)
    (whole, each), (whole_b, each_b) = seen.features(), seen.features(weights)
    found, regression = estimate(meta.features, meta.ap50, meta.kinds, whole, whole_b, FEATURES)
    if found is None:
        raise DataError("the source images have too few objects to fit an estimate: use more (--source-images).")
    classes = []
    for k in range(count):
        x, y = meta.class_features[:, k], meta.class_ap50[:, k]
        classes.append(estimate(x, y, meta.kinds, each[k], each_b[:, k], CLASS_FEATURES)[0])
    result = {"AP50": as_dict(found), "classes": [c and as_dict(c) for c in classes]}
    if labelled is not None:
        near = set_statistics(model, labelled.items, count, after_image)
        matched = MatchedBoxes(near.predictions, labelled.boxes, labelled.classes, count)
        drawn = rng.multinomial(len(labelled), [1 / len(labelled)] * len(labelled), RESAMPLES)
        powered, share = prediction_powered(
            (matched(), np.array([matched(w) for w in drawn])),
            (float(regression(near.features()[0])), regression(near.features(drawn)[0])),
            (float(regression(whole)), regression(whole_b)),
        )
        result["without_labels"], result["with_labels"] = result["AP50"], {**as_dict(powered), "lambda": share}
        result["AP50"] = as_dict(pooled(found, powered))
    copies = zip(meta.kinds, meta.levels, meta.ap50)
    result["meta_set"] = [{"kind": k, "level": v, "AP50": None if math.isnan(a) else a} for k, v, a in copies]
    return result


def as_dict(x):
    return {"value": x.value, "low": x.low, "high": x.high, "outside": x.outside}


def show(content, output):
    print(f"{'AP50':20s}{'estimate':>9s}{'90 % interval':>17s}")
    for name, x in [("all classes", content["AP50"]), *content["classes"].items()]:
        if x is None:
            print(printable(f"{name:20s}        -   too few objects in the source images"))
        else:
            print(printable(f"{name:20s}{x['value']:9.1f}{x['low']:9.1f} to {x['high']:.1f}"))
    known = [x["AP50"] for x in content["meta_set"] if x["AP50"] is not None]
    print(f"\nBased on {len(known)} corrupted copies of {content['source_images']} source images, with AP50 from "
          f"{min(known):.1f} to {max(known):.1f}.")  # fmt: skip
    if content["labels"]:
        a, b = content["without_labels"], content["with_labels"]
        print(f"Without labels: {a['value']:.1f} ({a['low']:.1f} to {a['high']:.1f}).")
        print(f"By {content['labels']} labelled images: {b['value']:.1f} ({b['low']:.1f} to {b['high']:.1f}).")
    if content["AP50"]["outside"]:
        print(f"Warning: the target images are unlike all copies ({', '.join(content['AP50']['outside'])}).")
        print("The estimate is a guess, and the interval does not hold.")
    print(printable(f"{output}: the numbers"))
