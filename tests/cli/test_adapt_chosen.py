"""``mic-det adapt``: which weights are the result, and how it is said."""

import torch

from mic_det.cli.adapt.chosen import find_chosen
from mic_det.engine.setup import get_mic_cfg
from mic_det.experiments.run_files import Run

STEPS = 900


def chosen(folder, step=None, score=None, enabled=True, end=None, **more):
    """Of a run that measured 0.5 at the start, 0.6 after 300 steps and 0.55 at the end, and kept those of ``step``."""
    cfg = get_mic_cfg()
    cfg.SOLVER.MAX_ITER, cfg.TEST.LABEL_FREE.ENABLED = STEPS, enabled
    if step is not None:
        content = {"model": {}, "iteration": step - 1, "label_free_score": score, **more}
        torch.save(content, folder / "model_best_label_free.pth")
    metrics = {0: {"label_free/start": 0.5}, 299: {"label_free/score": 0.6}, STEPS: end or {"label_free/score": 0.55}}
    return find_chosen(cfg, str(folder / "model_final.pth"), Run(folder, "adapt", metrics))


def test_a_start_that_was_measured_by_another_score_is_not_compared(tmp_path):
    """As where an adaptation was resumed with a version that combines other criteria."""
    found = chosen(tmp_path, 300, 0.6)
    assert found.start is None and "for the start" not in " ".join(found.sentences())


def test_the_best_of_the_middle(tmp_path):
    found = chosen(tmp_path, 300, 0.6, label_free_above_start=0.93)
    assert (found.file, found.last) == tuple(
        str(tmp_path / f"model_{x}.pth") for x in ("best_label_free", "final")
    ) and not found.is_last
    text = " ".join(found.sentences())
    assert "after step 300 of 900" in text and "0.600, 0.500 for the start, 0.550 for the last step." in text
    assert "better than the start in 93%" in text
    table = found.table((10.0, 20.0, 15.0))
    assert table.rows == [["start", "0.500", "10.0"], ["step 300", "0.600", "20.0"], ["step 900", "0.550", "15.0"]]
    assert not table.warning and "took no part" in table.sentences[-1]


def test_the_start(tmp_path):
    found = chosen(tmp_path, 0, 0.5)
    assert found.file.endswith("best_label_free.pth") and found.table().warning
    assert "did not help" in found.sentences()[-1] and "(score 0.500)" in found.sentences()[0]
    assert found.table().rows == [["start", "0.500"], ["step 900", "0.550"]]


def test_the_start_because_the_last_step_has_lost_a_class(tmp_path):
    found = chosen(tmp_path, 0, 0.5, end={"label_free/score": 0.0, "label_free/lost_classes": 1})
    assert found.lost and "0.000, as it has lost a class of the start" in found.sentences()[0]
    later = chosen(tmp_path, 300, 0.6, end={"label_free/score": 0.0, "label_free/lost_classes": 1}).sentences()
    assert "0.000 for the last step (it has lost a class" in " ".join(later)
    assert not chosen(tmp_path, 0, 0.5, end={"label_free/score": 0.4, "label_free/lost_classes": 0}).lost


def test_the_last_step_is_named_by_its_own_file(tmp_path):
    found = chosen(tmp_path, STEPS, 0.55, label_free_above_start=1.0)
    assert found.is_last and found.file == found.last
    assert "0.550, 0.500 for the start." in " ".join(found.sentences())


def test_without_a_measurement_the_last_step_is_the_result(tmp_path):
    assert chosen(tmp_path).is_last and not chosen(tmp_path).sentences()
    assert chosen(tmp_path, 300, 0.6, enabled=False).is_last
