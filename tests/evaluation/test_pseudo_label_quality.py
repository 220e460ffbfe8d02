"""Quality of pseudo-labels: numbers worked out by hand, and a model whose own boxes are the truth."""

import json
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils.env import seed_all_rng
from PIL import Image

from helpers.data import forget_registered_sets, load, tiny_config, write_coco, write_two_domains
from mic_det import add_mic_config
from mic_det.data.custom_sets import register_declared_datasets
from mic_det.data.mapper import DomainMapper
from mic_det.data.run_sets import check_datasets
from mic_det.engine.trainer import MICTrainer
from mic_det.errors import ConfigError, DataError
from mic_det.evaluation.pseudo_label_quality import PseudoLabelEvaluator, evaluate_pseudo_labels, number_of_pairs
from mic_det.modeling.tasks import RCNNTask


def register_declared(entries):
    """Declare sets as a config does, which names the label that is ignored too."""
    cfg = get_cfg()
    add_mic_config(cfg)
    cfg.DATASETS.CUSTOM, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = CfgNode(entries), 255
    register_declared_datasets(cfg)


def boxes(rows, size=(40, 60)):
    """Instances of (x0, y0, x1, y1, class, score) rows."""
    rows = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Instances(size, pred_boxes=Boxes(rows[:, :4]), pred_classes=rows[:, 4].long(), scores=rows[:, 5])


# ------------------------------------------------------------------------------------- by hand


@pytest.fixture
def by_hand(tmp_path):
    """Three images, classes car and bus: two cars, a crowd of cars and a bus in the first, a bus in the second."""
    images = [(f"{i}.png", 60, 40) for i in range(3)]
    content = write_coco(
        tmp_path / "set.json", images,
        [(0, 0, (0, 0, 10, 10)), (0, 0, (20, 0, 10, 10)), (0, 0, (40, 20, 20, 20)), (0, 1, (0, 20, 10, 10)),
         (1, 1, (30, 10, 20, 20))],
        classes=("car", "bus"),
    )  # fmt: skip
    content["annotations"][2]["iscrowd"] = 1
    (tmp_path / "set.json").write_text(json.dumps(content))
    with forget_registered_sets():
        register_declared({"by_hand": {"JSON": str(tmp_path / "set.json"), "IMAGES": str(tmp_path)}})
        yield DatasetCatalog.get("by_hand"), tmp_path


def evaluate(by_hand, answers, which=slice(None), labelled=True):
    dicts, folder = by_hand
    dicts = [d if labelled else {**d, "annotations": []} for d in dicts[which]]
    model = SimpleNamespace(tasks=[RCNNTask()], teacher=SimpleNamespace(roi_heads=SimpleNamespace(num_classes=2)))
    evaluator = PseudoLabelEvaluator("by_hand", dicts, model, str(folder / "out"))
    evaluator.reset()
    for d, (teacher, student) in zip(dicts, answers):
        evaluator.process([d], [{"instances": boxes(teacher), "student": boxes(student)}])
    return evaluator.evaluate()["pseudo_labels"]


ANSWERS = [
    # a car that is right, one in the crowd (does not count), a bus taken for a car, a car of which half is right
    ([(0, 0, 10, 10, 0, 0.9), (42, 22, 50, 30, 0, 0.95), (0, 20, 10, 30, 0, 0.85), (20, 0, 26, 10, 0, 0.8)],
     [(0, 0, 10, 10, 0, 0.9), (0, 20, 10, 30, 1, 0.7)]),
    ([(30, 10, 50, 25, 1, 0.9)], [(30, 10, 50, 24, 1, 0.9), (0, 0, 5, 5, 0, 0.9)]),
    ([], []),
]  # fmt: skip


def test_by_hand(by_hand):
    found = evaluate(by_hand, ANSWERS)
    # cars: 2 right (0.9; IoU 0.6 at 0.8), 1 wrong of 2 true; buses: 1 right (IoU 0.75), none wrong, of 2 true
    assert found["precision-car"] == pytest.approx(100 * 2 / 3) and found["recall-car"] == 100
    assert found["precision-bus"] == 100 and found["recall-bus"] == 50
    assert found["precision"] == 75 and found["recall"] == 75
    # AP: car is right, wrong, right: precision 1 up to recall 0.5 (51 of 101 points), then 2/3
    assert found["AP50-car"] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)
    assert found["AP50-bus"] == pytest.approx(100 * 51 / 101)
    assert found["AP50"] == pytest.approx((found["AP50-car"] + found["AP50-bus"]) / 2)
    assert found["boxes"] == pytest.approx(5 / 3)
    assert found["images"] == pytest.approx(200 / 3) and found["classes"] == 100
    # teacher 5 boxes, student 4, pairs: the first car and the bus of the second image
    assert found["agreement"] == pytest.approx(100 * 2 * 2 / 9)


def test_images_that_are_left_out_are_not_missed(by_hand):
    found = evaluate(by_hand, ANSWERS[1:2], slice(1, 2))
    assert found["recall"] == found["precision"] == 100 and found["images"] == 100 and found["classes"] == 50
    assert found["recall-car"] != found["recall-car"], "no car in this image: NaN"


def test_without_a_single_pseudo_box(by_hand):
    found = evaluate(by_hand, [([], [])] * 3)
    assert found["recall"] == found["AP50"] == found["images"] == found["classes"] == found["boxes"] == 0
    assert found["precision"] != found["precision"] and found["agreement"] != found["agreement"]


def test_without_labels(by_hand):
    assert set(evaluate(by_hand, ANSWERS, labelled=False)) == {"boxes", "images", "classes", "agreement"}


def test_pairs_are_one_to_one_and_of_one_class():
    first = boxes([(0, 0, 10, 10, 0, 1), (0, 0, 10, 9, 0, 1), (20, 0, 30, 10, 1, 1)])
    # the first fits both boxes of the other side; the second only one
    second = boxes([(0, 0, 10, 10, 0, 1), (20, 0, 30, 10, 0, 1), (20, 0, 30, 5, 1, 1)])
    assert number_of_pairs(first, second) == 2
    assert number_of_pairs(second, first) == 2
    assert number_of_pairs(first, boxes([])) == number_of_pairs(boxes([]), boxes([])) == 0
    assert number_of_pairs(first, first) == 3


# ------------------------------------------------------------------------------------- a real model

MIC = {
    "MODEL__META_ARCHITECTURE": "MIC",
    "MODEL__MIC__PSEUDO_BOXES": {"SCORE_THRESHOLD": 0.2},
    "DATASETS__TARGET": ["target_train"],
    "INPUT__MIN_SIZE_TEST": 96,  # not the size of the files
    "INPUT__MAX_SIZE_TEST": 144,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("pseudo_labels")
    write_two_domains(root)
    return root


def config(root, output="out", **keys):
    return load(root, tiny_config(root, root / output, **{**MIC, **keys}))


def test_the_teachers_own_boxes_are_right_in_the_frame_of_the_files(root):
    with forget_registered_sets():
        cfg = config(root, TEST__PSEUDO_LABELS={"DATASET": "target_val"})
        torch.manual_seed(0)
        model = MICTrainer.build_model(cfg).eval()
        images, truth, total, mapper = [], [], 0, DomainMapper(cfg, False)
        for i, x in enumerate(DatasetCatalog.get("target_val")):
            images.append((x["file_name"].split("/")[-1], x["width"], x["height"]))
            found = model([mapper(x)])[0]["instances"]  # Detectron2's own postprocessing
            found = found[found.scores >= 0.2]
            total += len(found)
            # every other detection is an object
            for box, c in list(zip(found.pred_boxes.tensor.tolist(), found.pred_classes.tolist()))[::2]:
                truth.append((i, c, (box[0], box[1], box[2] - box[0], box[3] - box[1])))
        assert len(truth) >= 10 and total > len(truth)
        write_coco(root / "own.json", images, truth)
    with forget_registered_sets():
        own = {"own": {"JSON": str(root / "own.json"), "IMAGES": str(root / "target/images")}}
        register_declared(own)
        cfg.defrost()
        cfg.TEST.PSEUDO_LABELS.DATASET = "own"
        found = evaluate_pseudo_labels(cfg, model)
    assert found["recall"] == 100
    assert found["precision"] == pytest.approx(100 * len(truth) / total)
    assert found["agreement"] == 100, "teacher and student are the same at the start"
    assert found["boxes"] == total / 4


def test_it_is_logged_over_time_and_changes_nothing(root):
    losses = {}
    for output, keys in (
        ("measured", {"TEST__PSEUDO_LABELS": {"DATASET": "target_train", "MAX_IMAGES": 3}, "TEST__EVAL_PERIOD": 2}),
        ("plain", {"DATASETS__TEST": []}),
    ):
        with forget_registered_sets():
            seed_all_rng(1)
            (root / output).mkdir()
            trainer = MICTrainer(config(root, output, SOLVER__MAX_ITER=4, **keys))
            seed_all_rng(2)
            trainer.train()
        losses[output] = [v for v, _ in trainer.storage.history("total_loss").values()]
        measured = {k: h.values() for k, h in trainer.storage.histories().items() if k.startswith("pseudo_labels/")}
        if output == "measured":
            assert [s for _, s in measured["pseudo_labels/recall"]] == [1, 4]
            for name in ("boxes", "images", "classes", "agreement", "precision", "AP50", "recall-red", "AP50-blue"):
                assert f"pseudo_labels/{name}" in measured
    assert not measured
    assert losses["measured"] == losses["plain"] and len(losses["plain"]) == 4


def test_label_maps_of_the_teacher_are_measured_too(root):
    folder = root / "maps"
    folder.mkdir()
    for i in range(4):
        Image.new("L", (96, 64), 1).save(folder / f"val_{i}.png")
    keys = {
        "MODEL__MIC__STUDENT": "BoxPanopticFPN",
        "MODEL__SEM_SEG_HEAD": {"NUM_CLASSES": 3, "CONVS_DIM": 8, "NORM": ""},
        "TEST__PSEUDO_LABELS": {"DATASET": "mapped"},
    }
    with forget_registered_sets():
        entry = {"JSON": str(root / "target/val.json"), "IMAGES": str(root / "target/images")}
        register_declared({"mapped": {**entry, "SEM_SEG": str(folder), "SEM_SEG_CLASSES": ["road", "sky", "car"]}})
        cfg = config(root, **keys)
        torch.manual_seed(0)
        model = MICTrainer.build_model(cfg).eval()
        for part in (model.teacher, model.student):
            part.sem_seg_head.predictor.weight.data.zero_()
            part.sem_seg_head.predictor.bias.data.copy_(torch.tensor([0.0, 1.0, 0.0]))  # all is sky
        assert evaluate_pseudo_labels(cfg, model)["mIoU"] == 100
        for part in (model.teacher, model.student):
            part.sem_seg_head.predictor.bias.data.copy_(torch.tensor([2.0, 1.0, 0.0]))  # all is road
        assert evaluate_pseudo_labels(cfg, model)["IoU-sky"] == 0


@pytest.mark.parametrize(
    "name, error, parts",
    [
        ("nowhere", ConfigError, ["TEST.PSEUDO_LABELS.DATASET", "nowhere"]),
        ("other", DataError, ["TEST.PSEUDO_LABELS", "['a', 'b']", "source_train"]),
    ],
)
def test_wrong_sets_are_refused_before_training(root, name, error, parts):
    write_coco(root / "other.json", [("val_0.png", 96, 64)], [(0, 0, (1, 1, 9, 9))], classes=("a", "b"))
    with forget_registered_sets(), pytest.raises(error) as caught:
        cfg = config(root, TEST__PSEUDO_LABELS={"DATASET": name})
        register_declared({"other": {"JSON": str(root / "other.json"), "IMAGES": str(root / "target/images")}})
        check_datasets(cfg)
    assert all(p in str(caught.value) for p in parts), caught.value
