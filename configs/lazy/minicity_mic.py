"""configs/minicity/mic.yaml as a LazyConfig. MIC and its parts are arguments, so you can replace each of them.

    python tools/lazyconfig_train_net.py --config-file configs/lazy/minicity_mic.py \
        train.init_checkpoint=output/minicity/source_only/model_final.pth
"""

import os

from detectron2.config import LazyCall as L
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.model_zoo import get_config
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from mic_det import MIC, get_mic_cfg
from mic_det.data.loader import build_two_domain_loader
from mic_det.evaluation import DetectionEvaluator
from mic_det.modeling.masking import PatchMask, StrongAugmentation
from mic_det.modeling.tasks import RCNNTask
from mic_det.modeling.tasks.region_consistency import ConsistencyWeights
from mic_det.modeling.terms import MaskedConsistency, Supervised

# registers the sets that this file declares
get_mic_cfg(os.path.join(os.path.dirname(__file__), "../minicity/Base-minicity.yaml"), ["MODEL.DEVICE", "cpu"])

# ------------------------------------------------- the student: Detectron2's Faster R-CNN, small

student = get_config("common/models/mask_rcnn_fpn.py").model
student.pixel_mean, student.pixel_std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
student.input_format = "RGB"

student.backbone.out_channels, student.backbone.norm = 64, "GN"
student.backbone.bottom_up.stem.norm = student.backbone.bottom_up.stages.norm = "GN"
student.backbone.bottom_up.stages.depth = 18
del student.backbone.bottom_up.stages.stride_in_1x1

rpn = student.proposal_generator
rpn.head.in_channels = 64
rpn.anchor_generator.sizes = [[16], [32], [64], [128], [256]]
rpn.pre_nms_topk, rpn.post_nms_topk = (500, 500), (300, 300)

heads = student.roi_heads
for key in ("mask_in_features", "mask_pooler", "mask_head"):
    del heads[key]
heads.num_classes, heads.batch_size_per_image = 8, 128
heads.box_head.input_shape.channels, heads.box_head.fc_dims = 64, [256, 256]
heads.box_predictor.input_shape.channels = 256

# ------------------------------------------------------------------------------------------- MIC

model = L(MIC)(
    student=student,
    tasks=[
        L(RCNNTask)(
            select=dict(score_threshold=0.8, nms_threshold=0.5, max_boxes=100),
            weights=L(ConsistencyWeights)(rpn_loc=1.0, roi_loc=1.0),
        )
    ],
    terms=[L(Supervised)(), L(MaskedConsistency)(weights=dict(boxes=1.0))],
    strong_view=L(StrongAugmentation)(
        jitter_strength=0.2, jitter_prob=0.8, blur_sigma=(0.15, 1.15), blur_prob=0.5, channels="RGB"
    ),
    mask=L(PatchMask)(block_size=16, ratio=0.3),
    alpha=0.99,
)

# ------------------------------------------------------------------------------------------ data

resize = L(T.ResizeShortestEdge)(short_edge_length=[192], max_size=384, sample_style="choice")
dataloader = dict(
    train=L(build_two_domain_loader)(
        source=["minicity_clear_train"],
        target=["minicity_foggy_train"],
        mapper=L(DatasetMapper)(is_train=True, augmentations=[resize, L(T.RandomFlip)()], image_format="RGB"),
        batch_size=2,
        target_batch_size=2,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names=["minicity_foggy_val"], filter_empty=False),
        mapper=L(DatasetMapper)(is_train=False, augmentations=[resize], image_format="RGB"),
    ),
    evaluator=L(DetectionEvaluator)(dataset_name="minicity_foggy_val"),
)

# -------------------------------------------------------------------------------------- schedule

optimizer = get_config("common/optim.py").SGD
optimizer.lr = 0.01
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[350, 450]),
    warmup_length=50 / 450,
    warmup_factor=0.001,
)
train = get_config("common/train.py").train
train.update(output_dir="output/lazy/minicity_mic", init_checkpoint="", device="cpu", max_iter=450, seed=1)
train.eval_period, train.checkpointer.period, train.log_period = 450, 150, 20
