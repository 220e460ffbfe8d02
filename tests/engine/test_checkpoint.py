"""Weights reach student and teacher completely, and come back bit by bit."""

import copy

import numpy as np
import pytest
import torch
import torchvision
from detectron2.modeling import build_model

from helpers.data import CLASSES, disturb, forget_registered_sets, load, tiny_config, write_two_domains
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.engine.trainer import MICTrainer
from mic_det.errors import CheckpointError

pytestmark = pytest.mark.slow

MOBILENET = {"MODEL__BACKBONE__NAME": "build_torchvision_fpn_backbone", "MODEL__TORCHVISION": {"NAME": "mobilenet_v2"}}
RESNET = {"MODEL__BACKBONE__NAME": "build_resnet_fpn_backbone"}
RESNET_FROZEN = {**RESNET, "MODEL__RESNETS__NORM": "FrozenBN"}  # what ImageNet weights of Detectron2's zoo are for


def make_model(folder, kind="MIC", **keys):
    """A detector on small images that answers with every box it has, however unsure."""
    keys = {**MOBILENET, "MODEL__META_ARCHITECTURE": kind, "MODEL__ROI_HEADS__SCORE_THRESH_TEST": 0.0, **keys}
    with forget_registered_sets():
        return build_model(load(folder, tiny_config(folder, **keys))).eval()


def predict(model):
    image = torch.randint(0, 255, (3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        found = model.inference([{"image": image, "height": 64, "width": 96}])[0]["instances"]
    assert len(found) > 5, "predictions to compare"
    return torch.cat([found.pred_boxes.tensor, found.scores[:, None], found.pred_classes[:, None]], dim=1)


def equal_states(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


# -------------------------------------------------------------------------- detectors and MIC


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_plain_detector_fills_student_and_teacher(tmp_path, prefix):
    plain = disturb(make_model(tmp_path, "GeneralizedRCNN"), 1)
    state = {prefix + k: v for k, v in plain.state_dict().items()}  # "module.": saved from DistributedDataParallel
    torch.save({"model": state}, tmp_path / "plain.pth")
    model = make_model(tmp_path)
    assert not equal_states(model.student, plain)
    MICCheckpointer(model).load(str(tmp_path / "plain.pth"))
    assert equal_states(model.student, plain)
    assert equal_states(model.teacher, plain)
    assert torch.equal(predict(model), predict(plain))


def test_a_bare_state_dict_is_a_checkpoint_too(tmp_path):
    plain = disturb(make_model(tmp_path, "GeneralizedRCNN"), 1)
    torch.save(plain.state_dict(), tmp_path / "bare.pth")
    model = make_model(tmp_path)
    MICCheckpointer(model).load(str(tmp_path / "bare.pth"))
    assert equal_states(model.teacher, plain)


def test_a_plain_detector_takes_the_teacher_of_a_mic_checkpoint(tmp_path):
    """Names would not match otherwise, and a random detector would be evaluated without a word."""
    model = make_model(tmp_path)
    disturb(model.student, 1), disturb(model.teacher, 2)
    MICCheckpointer(model, str(tmp_path)).save("mic")
    plain = make_model(tmp_path, "GeneralizedRCNN")
    MICCheckpointer(plain).load(str(tmp_path / "mic.pth"))
    assert equal_states(plain, model.teacher)


@pytest.mark.parametrize("evaluate", ["teacher", "student"])
def test_mic_checkpoint_round_trip_is_exact(tmp_path, evaluate):
    model = make_model(tmp_path, MODEL__MIC__EVALUATE=evaluate)
    disturb(model.student, 1), disturb(model.teacher, 2)
    model.steps = 7
    MICCheckpointer(model, str(tmp_path)).save("model", iteration=6)
    expected = predict(model)

    again = disturb(make_model(tmp_path, MODEL__MIC__EVALUATE=evaluate), 3)
    assert not torch.equal(predict(again)[:5], expected[:5])
    rest = MICCheckpointer(again, str(tmp_path)).resume_or_load("", resume=True)
    assert torch.equal(predict(again), expected)
    assert not equal_states(again.student, again.teacher)
    assert again.steps == 7 and int(again.num_steps) == 7
    assert rest["iteration"] == 6


def test_loading_does_not_count_as_an_optimizer_step(tmp_path):
    model = disturb(make_model(tmp_path), 1)
    MICCheckpointer(model, str(tmp_path)).save("model")
    model.update_teacher()
    MICCheckpointer(model).load(str(tmp_path / "model.pth"))
    model.update_teacher()
    assert model.steps == 0


def test_restart_makes_the_teacher_the_student_at_time_zero(tmp_path):
    model = make_model(tmp_path)
    disturb(model.student, 1), disturb(model.teacher, 2)
    model.steps = 7
    teacher = copy.deepcopy(model.teacher)
    model.restart()
    assert equal_states(model.student, teacher) and equal_states(model.teacher, teacher)
    assert model.steps == 0


@pytest.mark.parametrize("resume", [False, True])
def test_trainer_restarts_from_weights_but_continues_from_its_own_checkpoint(tmp_path, resume):
    write_two_domains(tmp_path)
    model = make_model(tmp_path)
    disturb(model.student, 1), disturb(model.teacher, 2)
    model.steps = 7
    MICCheckpointer(model, str(tmp_path)).save("mic")
    keys = {**MOBILENET, "MODEL__META_ARCHITECTURE": "MIC", "MODEL__WEIGHTS": str(tmp_path / "mic.pth")}
    (tmp_path / "output").mkdir()
    with forget_registered_sets():
        cfg = load(tmp_path, tiny_config(tmp_path, tmp_path / "output", DATASETS__TARGET=["target_train"], **keys))
        trainer = MICTrainer(cfg)
        if resume:  # a checkpoint of this very run
            trainer.checkpointer.model.load_state_dict(model.state_dict())
            trainer.iter = 6
            trainer.checkpointer.save("model_0000006", iteration=6)
            trainer = MICTrainer(cfg)
        trainer.resume_or_load(resume=True)
    ours = trainer.checkpointer.model
    assert equal_states(ours.teacher, model.teacher)
    assert equal_states(ours.student, model.student if resume else model.teacher)
    assert (ours.steps, trainer.start_iter) == ((7, 7) if resume else (0, 0))


# ------------------------------------------------------------------------------- backbone weights


def features(backbone, image):
    with torch.no_grad():
        return backbone.eval()(image)


@pytest.mark.parametrize("kind", ["GeneralizedRCNN", "MIC"])
def test_a_local_torchvision_file_fills_the_backbone(tmp_path, kind):
    torch.manual_seed(5)
    classifier = torchvision.models.mobilenet_v2(weights=None).eval()
    for module in classifier.modules():  # statistics as after training, not 0 and 1
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    torch.save(classifier.state_dict(), tmp_path / "mobilenet.pth")
    model = make_model(tmp_path, kind)
    MICCheckpointer(model).load(str(tmp_path / "mobilenet.pth"))
    image = torch.randn(1, 3, 64, 96)
    expected = features(classifier.features, image)
    for part in [model] if kind == "GeneralizedRCNN" else [model.student, model.teacher]:
        found = features(part.backbone.bottom_up, image)["res5"]
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_zoo_pickle_of_a_whole_detector(tmp_path):
    plain = disturb(make_model(tmp_path, "GeneralizedRCNN"), 1)
    arrays = {k: v.numpy() for k, v in plain.state_dict().items()}
    write_pickle(tmp_path / "zoo.pkl", {"model": arrays, "__author__": "Detectron2 Model Zoo"})
    model = make_model(tmp_path)
    MICCheckpointer(model).load(str(tmp_path / "zoo.pkl"))
    assert equal_states(model.student, plain) and equal_states(model.teacher, plain)


def write_pickle(path, content):
    import pickle

    path.write_bytes(pickle.dumps(content, protocol=2))


def bottom_up(model):
    return {k[len("backbone.bottom_up.") :]: v for k, v in model.state_dict().items() if "bottom_up" in k}


def test_zoo_pickle_of_a_backbone_is_matched_by_name(tmp_path):
    """As Detectron2's own R-50.pkl: names without a prefix, to be matched by their endings."""
    plain = disturb(make_model(tmp_path, "GeneralizedRCNN", **RESNET_FROZEN), 1)
    arrays = {k: v.numpy() for k, v in bottom_up(plain).items()}
    assert "stem.conv1.weight" in arrays
    write_pickle(tmp_path / "R-18.pkl", {"model": arrays, "__author__": "torchvision", "matching_heuristics": True})
    check_backbone_loads(tmp_path, "R-18.pkl", plain)


def test_caffe2_pickle_of_a_backbone_is_converted(tmp_path):
    """As ImageNetPretrained/MSRA: no ``model`` key, Caffe2's names, solver leftovers."""
    plain = disturb(make_model(tmp_path, "GeneralizedRCNN", **RESNET_FROZEN), 1)
    blobs = {caffe2_name(k): v.numpy() for k, v in bottom_up(plain).items() if "num_batches" not in k}
    assert "res_conv1_bn_s" in blobs and "res2_0_branch2a_w" in blobs and "res3_0_branch1_w" in blobs
    blobs["conv1_w_momentum"] = np.zeros(3, np.float32)
    write_pickle(tmp_path / "MSRA.pkl", {"blobs": blobs})
    check_backbone_loads(tmp_path, "MSRA.pkl", plain)


def caffe2_name(key):
    """Detectron2's name of a ResNet tensor, back to Caffe2's."""
    for ours, theirs in [
        ("stem.conv1.norm.", "res.conv1.bn."), ("stem.conv1.", "conv1."), (".norm.", ".bn."),
        (".conv1.", ".branch2a."), (".conv2.", ".branch2b."), (".shortcut.", ".branch1."),
    ]:  # fmt: skip
        key = key.replace(ours, theirs) if not key.startswith("conv1.") else key
    key = key.replace("res.branch2a.bn", "res.conv1.bn")
    ending = {"weight": "s" if ".bn." in key else "w", "bias": "b", "running_mean": "rm", "running_var": "riv"}
    stem, last = key.rsplit(".", 1)
    return f"{stem}.{ending[last]}".replace(".", "_")


def check_backbone_loads(folder, file, plain):
    model = make_model(folder, **RESNET_FROZEN)
    head = copy.deepcopy(model.student.roi_heads)
    MICCheckpointer(model).load(str(folder / file))
    expected = bottom_up(plain)
    for part in (model.student, model.teacher):
        found = bottom_up(part)
        assert found.keys() == expected.keys()
        assert all(torch.equal(v, expected[k]) for k, v in found.items())
        assert equal_states(part.roi_heads, head), "what the file lacks stays the same in student and teacher"


def test_a_backbone_that_is_not_in_the_file_stops_the_run(tmp_path):
    plain = make_model(tmp_path, "GeneralizedRCNN")
    state = plain.state_dict()
    names = [k for k in state if k.startswith("backbone.bottom_up.") and "num_batches" not in k]
    fifth = names[: len(names) // 5]
    torch.save({"model": {k: v for k, v in state.items() if k not in fifth}}, tmp_path / "lacks.pth")
    model = make_model(tmp_path)
    before = copy.deepcopy(model)
    with pytest.raises(CheckpointError) as caught:
        MICCheckpointer(model).load(str(tmp_path / "lacks.pth"))
    found = len(names) - len(fifth)
    for part in ("lacks.pth", fifth[0], f"{found} of {len(names)}", "MODEL.BACKBONE.MIN_MATCHED_KEYS", "MODEL.WEIGHTS"):
        assert part in str(caught.value)
    assert equal_states(model, before), "nothing is loaded by half"
    MICCheckpointer(model, min_matched_keys=0.7).load(str(tmp_path / "lacks.pth"))  # asked for, so allowed


def test_a_backbone_of_another_width_stops_the_run(tmp_path):
    plain = make_model(tmp_path, "GeneralizedRCNN")
    torch.save({"model": plain.state_dict()}, tmp_path / "mobilenet.pth")
    with pytest.raises(CheckpointError, match=r"0 of \d+ .*backbone\.bottom_up\."):
        MICCheckpointer(make_model(tmp_path, **RESNET)).load(str(tmp_path / "mobilenet.pth"))


def test_a_head_for_other_classes_does_not_stop_the_run(tmp_path):
    """Fine-tuning from a detector of another number of classes is usual: only its last layers differ."""
    plain = disturb(make_model(tmp_path, "GeneralizedRCNN", MODEL__ROI_HEADS__NUM_CLASSES=len(CLASSES) + 4), 1)
    torch.save({"model": plain.state_dict()}, tmp_path / "other.pth")
    model = make_model(tmp_path)
    MICCheckpointer(model).load(str(tmp_path / "other.pth"))
    for part in (model.student, model.teacher):
        assert equal_states(part.backbone, plain.backbone)
        assert equal_states(part.roi_heads.box_head, plain.roi_heads.box_head)
    assert equal_states(model.student, model.teacher)
