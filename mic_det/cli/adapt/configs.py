"""The config file of each training. These are ordinary configs, which a user may edit and run."""

import ast
import copy

import yaml
from detectron2.config import CfgNode

from ...config.bundled import find_config
from .plan import ADAPT_PRESET, DETECTOR, SOURCE_FREE_PRESET, SOURCE_PRESET

SOURCE, ADAPT = "source", "adapt"  # the trainings; NAME.yaml is the config, NAME the output folder
PRESETS = {SOURCE: SOURCE_PRESET, ADAPT: ADAPT_PRESET}
HEAD = """\
# {title}
# `mic-det adapt` wrote this config. You can change it, and run it with
#     mic-det train --config-file {file}
"""
TITLES = {SOURCE: "Training of the source model on labelled images alone.", ADAPT: "Adaptation to the target."}
JUDGED = 40  # target images on which the start and the checkpoints are judged without labels
TOP = 5  # the learning rate grows during the first 1 / TOP of the steps


def training_config(stage, plan, sets, output, weights, opts=(), base="", student=""):
    """The nested dict of one training.

    Args:
        stage (str): SOURCE or ADAPT.
        plan (Plan)
        sets (dict): "source", "target", "target_labelled" and "test" -> entry of ``DATASETS.CUSTOM``; "classes" ->
            their number. Optional: "class_names" of a model without source images, "labeller" (a file of boxes).
        output (path): ``OUTPUT_DIR``.
        weights (str): ``MODEL.WEIGHTS``.
        opts (list[str]): ``KEY VALUE`` pairs.
        base (str): the config of a trained source model. Its detector, data and solver are kept.
        student (str): the architecture of this model.
    """
    steps = plan.steps[0 if stage == SOURCE else 1]
    config = {} if base else _detector(plan, sets["classes"])
    _merge(config, _run(stage, plan, steps, sets, output, weights, own=bool(base)))
    _merge(config, _read(find_config(SOURCE_FREE_PRESET if "class_names" in sets else PRESETS[stage])))
    _merge(config, {"MODEL": {"MIC": {"MASK": {"BLOCK_SIZE": plan.block_size}}}})
    if stage == ADAPT:  # also instead of a preset's
        judged = {"ENABLED": True, "PERIOD": _often(steps), "MAX_IMAGES": JUDGED}
        _merge(config, {"TEST": {"LABEL_FREE": judged}})
        if sets.get("labeller"):  # its scores are scaled to the constant threshold
            _merge(config, {"MODEL": {"MIC": {"PSEUDO_BOXES": {"ADAPT": "none"}}}})
    if base:
        config = {"_BASE_": base, **config}
        config["MODEL"]["MIC"]["STUDENT"] = student
    for key, value in zip(opts[::2], opts[1::2]):
        *parents, last = key.split(".")
        node = {last: _literal(value)}
        for parent in reversed(parents):
            node = {parent: node}
        _merge(config, node)
    return config


def write_config(config, stage, file):
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    head = HEAD.format(title=TITLES[stage], file=file)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{head}{text}", encoding="utf-8")


def _often(steps):
    """Steps from one evaluation to the next; 0 = short trainings have that at the end alone."""
    return steps // 3 if steps >= 300 else 0


def _detector(plan, num_classes):
    """A Faster R-CNN with an FPN: on torchvision's backbone where it has weights, else on one trained from scratch."""
    config = _read(find_config(DETECTOR))
    model, large = config["MODEL"], plan.machine.device == "cuda"
    model["ROI_HEADS"]["NUM_CLASSES"] = num_classes
    if plan.weights.name:
        model["BACKBONE"] = {"NAME": "build_torchvision_fpn_backbone", "FREEZE_AT": 2}
        model["TORCHVISION"] = {"NAME": plan.weights.name, "NORM": "FrozenBN"}
        del model["RESNETS"]
        model["FPN"]["IN_FEATURES"] = ["res2", "res3", "res4", "res5"]
    if large:
        model["FPN"]["OUT_CHANNELS"], model["ROI_BOX_HEAD"]["FC_DIM"] = 256, 1024
        model["ROI_HEADS"]["BATCH_SIZE_PER_IMAGE"] = 512
        for phase, before, after in (("TRAIN", 2000, 1000), ("TEST", 1000, 1000)):
            model["RPN"][f"PRE_NMS_TOPK_{phase}"], model["RPN"][f"POST_NMS_TOPK_{phase}"] = before, after
    smallest = 32 if plan.short_side >= 600 else 16
    model["ANCHOR_GENERATOR"]["SIZES"] = [[smallest * 2**i] for i in range(5)]
    return config


def _run(stage, plan, steps, sets, output, weights, own):
    """The settings of this training: data, sizes, schedule, device."""
    machine, adapts = plan.machine, stage == ADAPT
    custom = {name: sets[name] for name in ("source", "target", "target_labelled", "test") if sets.get(name)}
    often = _often(steps)
    run = {
        "VERSION": 2,
        "MODEL": {"META_ARCHITECTURE": "MIC", "WEIGHTS": weights, "DEVICE": machine.device},
        "DATASETS": {
            "CUSTOM": custom,
            "TRAIN": ["source"],
            "TARGET": ["target"] if adapts else [],
            "TEST": ["test"] if "test" in custom else [],
        },
        "INPUT": {
            "MIN_SIZE_TRAIN": [plan.short_side], "MAX_SIZE_TRAIN": plan.long_side,
            "MIN_SIZE_TEST": plan.short_side, "MAX_SIZE_TEST": plan.long_side,
        },
        "DATALOADER": {"NUM_WORKERS": min(8, machine.cores // max(1, machine.gpus)) if machine.cores > 2 else 0},
        "SOLVER": {
            "IMS_PER_BATCH": plan.batch, "IMS_PER_BATCH_TARGET": plan.batch, **_optimizer(plan),
            "MAX_ITER": steps, "STEPS": [max(1, steps * 4 // 5)] if steps > 1 else [],
            "WARMUP_ITERS": min(200, steps // TOP),
            "CHECKPOINT_PERIOD": max(1, min(500, steps // 4)), "CHECKPOINT_KEEP": 1,
            "AMP": {"ENABLED": machine.bfloat16 or bool(machine.gpus),
                    "DTYPE": "bfloat16" if machine.bfloat16 else "float16"},
        },
        "TEST": {"EVAL_PERIOD": often if adapts and "test" in custom else 0},
        "VIS_PERIOD": often if adapts else 0,
        "SEED": 1,
        "OUTPUT_DIR": str(output),
    }  # fmt: skip
    if adapts and "target_labelled" in custom:
        run["DATASETS"]["TARGET_LABELLED"] = ["target_labelled"]
        run["SOLVER"]["IMS_PER_BATCH_TARGET_LABELLED"] = max(1, machine.gpus)
    if adapts and sets.get("labeller"):
        run["MODEL"]["MIC"] = {"LABELLER": {"JSON": sets["labeller"]}}
    if own:  # the source model's settings stay: sizes, source images, solver
        del run["INPUT"], run["DATASETS"]["TRAIN"]
        for key in ("IMS_PER_BATCH", "AMP", *_optimizer(plan)):
            del run["SOLVER"][key]
    if "class_names" in sets:
        run["DATASETS"].update(TRAIN=[], CLASS_NAMES=list(sets["class_names"]))
        if plan.source_free_lr:
            run["SOLVER"]["BASE_LR"] = plan.source_free_lr
    return run


def _optimizer(plan):
    """The optimizer of a detector that has no settings of its own, as docs/results.md compares them."""
    if plan.weights.name:  # ImageNet weights, as in configs/camvid
        return {"OPTIMIZER": "AdamW", "BASE_LR": 0.0002, "WEIGHT_DECAY": 0.05, "WEIGHT_DECAY_NORM": 0.0}
    return {"OPTIMIZER": "SGD", "BASE_LR": round(plan.batch * 0.005, 6)}  # from scratch, as on the miniature city


def _read(file):
    return CfgNode.load_yaml_with_base(file)


def _merge(into, other):
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)


def _literal(text):
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return list(value) if isinstance(value, tuple) else value
