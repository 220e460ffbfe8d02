"""What the config says of the training step is what happens in it."""

import pytest
import torch

from helpers.data import forget_registered_sets, load, tiny_config, write_two_domains
from mic_det.engine.trainer import MICTrainer
from mic_det.modeling import MIC


@pytest.fixture
def make_trainer(tmp_path):
    write_two_domains(tmp_path)

    def make(**keys):
        keys = {"MODEL__BACKBONE__NAME": "build_torchvision_fpn_backbone", "SOLVER__MAX_ITER": 2, **keys}
        (tmp_path / "output").mkdir()
        return MICTrainer(load(tmp_path, tiny_config(tmp_path, tmp_path / "output", DATASETS__TEST=[], **keys)))

    with forget_registered_sets():
        yield make


def watch_backbone(trainer):
    """The type and batch size of what the trained detector's backbone returns, one entry a pass."""
    seen = []
    model = trainer.checkpointer.model
    model = model.student if isinstance(model, MIC) else model
    model.backbone.bottom_up.register_forward_hook(
        lambda module, inputs, out: seen.append((out["res5"].dtype, len(out["res5"])))
    )
    return seen


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_a_step_passes_as_many_micro_batches_as_accumulate_steps(make_trainer, micro_batches):
    trainer = make_trainer(SOLVER__ACCUMULATE_STEPS=micro_batches, SOLVER__IMS_PER_BATCH=3)
    seen = watch_backbone(trainer)
    trainer.train()
    assert seen == [(torch.float32, 3)] * (2 * micro_batches)


@pytest.mark.parametrize("amp, dtype", [({"ENABLED": True, "DTYPE": "bfloat16"}, torch.bfloat16), ({}, torch.float32)])
def test_mic_passes_source_and_target_at_once_in_the_precision_asked_for(make_trainer, amp, dtype):
    trainer = make_trainer(
        MODEL__META_ARCHITECTURE="MIC", DATASETS__TARGET=["target_train"], SOLVER__AMP=amp, SOLVER__IMS_PER_BATCH=3
    )
    seen = watch_backbone(trainer)
    trainer.train()
    # 3 source images and 2 masked target images share the student's one pass a step
    assert seen == [(dtype, 5)] * 2


def test_the_optimizer_has_the_student_alone(make_trainer):
    trainer = make_trainer(MODEL__META_ARCHITECTURE="MIC", DATASETS__TARGET=["target_train"])
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    model = trainer.checkpointer.model
    assert trained == {id(p) for p in model.student.parameters() if p.requires_grad}
    assert not trained & {id(p) for p in model.teacher.parameters()}
