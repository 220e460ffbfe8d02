"""Pictures of label maps: Cityscapes' colours, strips that count nothing, mixtures, during training too."""

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.data import HEIGHT, WIDTH, declared, forget_registered_sets, load, tiny_config, write_two_domains
from mic_det.engine.hooks import PseudoBoxPictures
from mic_det.engine.trainer import MICTrainer
from mic_det.modeling.pseudo_labels import sem_seg_pseudo_labels
from mic_det.modeling.terms import ClassMix
from mic_det.visualization.label_colors import color_labels
from mic_det.visualization.panels import mic_panels

ROAD, SIDEWALK, BUILDING, CAR = (128, 64, 128), (244, 35, 232), (70, 70, 70), (0, 0, 142)  # Cityscapes' own


def test_colours_are_those_of_cityscapes_and_ignored_pixels_are_black():
    labels = np.array([[0, 13, 255], [19, 2, 1]])
    expected = [[ROAD, CAR, (0, 0, 0)], [ROAD, BUILDING, SIDEWALK]]  # class 19 begins again
    assert color_labels(labels).tolist() == [[list(c) for c in row] for row in expected]
    assert color_labels(np.array([[13]]), ignore_value=13).tolist() == [[[0, 0, 0]]]


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    """A model of boxes and pixels whose teacher sees buildings alone and whose student sees road alone."""
    root = tmp_path_factory.mktemp("sem_seg_panels")
    write_two_domains(root)
    (root / "maps").mkdir()
    for i in range(8):
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[:, WIDTH // 2 :] = 255
        Image.fromarray(labels).save(root / f"maps/train_{i}.png")
    sets = declared(root)
    sets["source_train"].update(SEM_SEG=str(root / "maps"), SEM_SEG_CLASSES=["road", "sidewalk", "building"])
    keys = {
        "MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": ["target_train"], "DATASETS__CUSTOM": sets,
        "MODEL__SEM_SEG_HEAD": {"NUM_CLASSES": 3, "CONVS_DIM": 8, "NORM": ""},
        "MODEL__MIC__STUDENT": "BoxPanopticFPN", "MODEL__MIC__STRONG_AUG": {"JITTER_PROB": 0.0, "BLUR_PROB": 0.0},
        "MODEL__MIC__SEM_SEG": {"MARGINS": [0.25, 0, 0, 0], "MIX_WEIGHT": 1.0}, "VIS_PERIOD": 1,
    }  # fmt: skip
    with forget_registered_sets():
        cfg = load(root, tiny_config(root, **keys))
        torch.manual_seed(0)
        model = MICTrainer.build_model(cfg).eval()
        for part, sure in ((model.teacher, 2), (model.student, 0)):
            part.sem_seg_head.predictor.weight.data.zero_()
            part.sem_seg_head.predictor.bias.data.copy_(torch.eye(3)[sure] * 9)
        yield cfg, model


def color_at(panels, caption, x, y):
    (picture,) = [p for text, p in panels if text.startswith(caption)]
    scale = picture.shape[1] / WIDTH
    return tuple(picture[round(y * scale), round(x * scale)].tolist())


def test_panels_of_pixels(setup):
    _, model = setup
    truth = torch.full((HEIGHT, WIDTH), 1)
    truth[:, :20] = 255
    x = {"image": torch.full((3, HEIGHT, WIDTH), 77, dtype=torch.uint8), "sem_seg": truth}
    x["valid_pixels"] = (torch.arange(HEIGHT) >= 16)[:, None].expand(HEIGHT, WIDTH)
    labels = torch.zeros(HEIGHT, WIDTH, dtype=torch.int64)
    labels[:, WIDTH // 2 :] = 255
    source = {"image": torch.full((3, HEIGHT, WIDTH), 200, dtype=torch.uint8), "sem_seg": labels}
    panels = mic_panels(model, x, source=source)
    captions = [text for text, _ in panels]
    assert captions[-5:] == ["predicted labels", "teacher's pseudo-labels, q = 1.00", "mixed with a source image",
                             "labels of the mixture", "true labels"]  # fmt: skip
    assert color_at(panels, "predicted labels", 50, 40) == BUILDING
    assert color_at(panels, "teacher's pseudo-labels", 50, 40) == BUILDING
    assert color_at(panels, "teacher's pseudo-labels", 50, 8) == tuple(v // 3 for v in BUILDING), "a strip of weight 0"
    # the source's only class is pasted; its ignored half is not
    assert color_at(panels, "mixed", 20, 40) == (200, 200, 200) and color_at(panels, "mixed", 80, 40) == (77, 77, 77)
    assert color_at(panels, "labels of", 20, 40) == ROAD and color_at(panels, "labels of", 80, 40) == BUILDING
    assert color_at(panels, "true labels", 80, 40) == SIDEWALK and color_at(panels, "true labels", 5, 40) == (0, 0, 0)
    model.evaluate = "student"
    try:
        panels = mic_panels(model, {"image": x["image"]})
    finally:
        model.evaluate = "teacher"
    assert color_at(panels, "predicted labels", 50, 40) == ROAD
    assert [text for text, _ in panels][-2:] == ["predicted labels", "teacher's pseudo-labels, q = 1.00"]


def test_an_unsure_teacher_has_a_small_q(setup):
    _, model = setup
    bias = model.teacher.sem_seg_head.predictor.bias.data
    kept = bias.clone()
    try:
        bias.copy_(torch.tensor([0.0, 0.0, 1.0]))  # probability 0.58
        panels = mic_panels(model, {"image": torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)})
    finally:
        bias.copy_(kept)
    assert any(text.endswith("q = 0.00") for text, _ in panels)
    assert sem_seg_pseudo_labels(torch.tensor([0.0, 0, 1]).reshape(1, 3, 1, 1), 0.5)[1] == 1


def test_pictures_during_training_show_the_mixture_too(setup):
    cfg, model = setup
    rows = PseudoBoxPictures(cfg, model, num_images=2).draw()
    assert len(rows) == 2
    for row in rows:
        assert [text for text, _ in row][-2:] == ["mixed with a source image", "labels of the mixture"]
        assert color_at(row, "teacher's pseudo-labels", 50, 14) == tuple(v // 3 for v in BUILDING), "the top quarter"
        assert color_at(row, "teacher's pseudo-labels", 50, 18) == BUILDING
        assert color_at(row, "labels of", 20, 40) == ROAD and color_at(row, "labels of", 80, 40) == BUILDING
    terms, model.terms = model.terms, [x for x in model.terms if not isinstance(x, ClassMix)]
    try:
        rows = PseudoBoxPictures(cfg, model, num_images=1).draw()
    finally:
        model.terms = terms
    assert not any("mix" in text for text, _ in rows[0])
