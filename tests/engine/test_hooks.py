"""Pictures during training: they are written when asked for, and training does not notice."""

import random

import cv2
import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from helpers.data import HEIGHT, forget_registered_sets, load, tiny_config, write_two_domains
from mic_det.engine.hooks import PseudoBoxPictures, undisturbed
from mic_det.engine.trainer import MICTrainer

pytestmark = pytest.mark.slow

STEPS = 5
MIC = {
    "MODEL__META_ARCHITECTURE": "MIC",
    "MODEL__MIC__PSEUDO_BOXES": {"SCORE_THRESHOLD": 0.05},  # the masked loss has something to learn from
    "DATASETS__TARGET": ["target_train"],
    "DATASETS__TEST": [],
    "SOLVER__MAX_ITER": STEPS,
}


def train(root, name, **keys):
    """Train a few steps from fixed seeds; all losses, the weights, and the state of each generator at the end."""
    output = root / name
    output.mkdir()
    cfg = load(root, tiny_config(root, output, **keys))
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(3)
    with forget_registered_sets():
        trainer = MICTrainer(load(root, tiny_config(root, output, **keys)))
        trainer.train()
    losses = trainer.storage.history("total_loss").values()
    after = torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()
    model = trainer.checkpointer.model
    assert cfg.VIS_PERIOD == keys.get("VIS_PERIOD", 0)
    return [v for v, _ in losses], {k: v.clone() for k, v in model.state_dict().items()}, after, trainer


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("hooks")
    write_two_domains(root)
    with forget_registered_sets():
        return root, train(root, "without", **MIC), train(root, "with", VIS_PERIOD=2, **MIC)


def test_training_is_bit_equal_with_and_without_pictures(runs):
    _, (losses, weights, after, _), (losses_with, weights_with, after_with, trainer) = runs
    assert len(losses) == STEPS and losses == losses_with
    assert all(torch.equal(weights[k], weights_with[k]) for k in weights)
    assert after == after_with, "torch's, NumPy's and Python's random numbers"
    model = trainer.checkpointer.model
    assert model.training and model.student.training and not model.teacher.training


def test_a_picture_every_period_and_none_without(runs):
    root, _, _ = runs
    files = sorted(p.name for p in (root / "with/visuals").iterdir())
    assert files == [f"{step:07d}_{number}.jpg" for step in (2, 4) for number in (1, 2, 3)]
    assert not (root / "without/visuals").exists()
    pictures = [cv2.imread(str(root / "with/visuals" / f)).astype(int) for f in files]
    assert len({p.shape for p in pictures}) == 1
    height, width = pictures[0].shape[:2]
    cell = height // 2, width // 3  # five panels in two lines of three
    assert width <= 1920 and height <= 1000 and abs(cell[1] / (cell[0] - 36) - 96 / HEIGHT) < 0.02, "fits a screen"
    assert (pictures[0][cell[0] + 8 :, 2 * cell[1] + 8 :] >= 250).all(), "the sixth place is empty"
    # the same images each time, and three different ones
    images = [p[36 : cell[0], : cell[1]] for p in pictures]
    assert all(np.abs(images[i] - images[3 + i]).mean() < 1 for i in range(3))
    assert min(np.abs(images[i] - images[j]).mean() for i, j in ((0, 1), (0, 2), (1, 2))) > 5


def test_the_same_patches_are_hidden_each_time(runs):
    _, _, (*_, trainer) = runs
    hook = next(h for h in trainer._hooks if isinstance(h, PseudoBoxPictures))
    with undisturbed(hook.model):
        task = hook.model.task("boxes")
        kept, task.select = task.select, {**task.select, "score_threshold": 1.0}  # no boxes over it
        first, second = ([row[2] for row in hook.draw()] for _ in range(2))
        task.select = kept
    assert all("masked view" in caption for caption, _ in first)
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(first, second))
    assert not np.array_equal(first[0][1] == first[0][1][0, 0], first[1][1] == first[1][1][0, 0])


def test_the_picture_is_in_tensorboard_at_its_step(runs):
    root, _, _ = runs
    events = EventAccumulator(str(root / "with"), size_guidance={"images": 0})
    events.Reload()
    for number in (1, 2, 3):
        shown = events.Images(f"pseudo-boxes/{number}")
        assert [e.step for e in shown] == [1, 3]
        picture = cv2.imdecode(np.frombuffer(shown[0].encoded_image_string, np.uint8), cv2.IMREAD_COLOR).astype(int)
        written = cv2.imread(str(root / f"with/visuals/0000002_{number}.jpg")).astype(int)
        assert picture.shape == written.shape and np.abs(picture - written).mean() < 6


def test_detectron2s_own_pictures_of_a_plain_detector_still_work(runs):
    root = runs[0]
    with forget_registered_sets():
        losses, *_ = train(root, "plain", VIS_PERIOD=2, DATASETS__TEST=[], SOLVER__MAX_ITER=3)
    assert len(losses) == 3 and not (root / "plain/visuals").exists()
    events = EventAccumulator(str(root / "plain"), size_guidance={"images": 0})
    events.Reload()
    assert events.Tags()["images"]


def test_a_full_disk_does_not_end_the_training(runs, caplog):
    root = runs[0]
    (root / "full").mkdir()
    (root / "full/visuals").write_text("a file where the folder should be")
    keys = {**MIC, "VIS_PERIOD": 2, "SOLVER__MAX_ITER": 3}
    with forget_registered_sets(), EventStorage():
        trainer = MICTrainer(load(root, tiny_config(root, root / "full", **keys)))
        trainer.train()
    assert trainer.iter == 3
    assert "No picture of step 2" in caplog.text


def test_undisturbed_puts_back_modes_of_single_modules_after_an_error_too():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    model.train()
    model[1].eval()  # frozen by its user
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    with pytest.raises(KeyError), undisturbed(model):
        model.train()
        torch.rand(1), np.random.rand(), random.random()
        model.eval()
        raise KeyError
    assert [m.training for m in model.modules()] == [True, True, False, True]
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1], before[2]) == (np.random.get_state()[1].tolist(), random.getstate())
