"""MICRCNN: an R-CNN that learns from an unlabelled target domain by masked image consistency."""

import copy

import torch
from detectron2.config import configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, ImageList
from detectron2.utils.events import get_event_storage
from torch import nn

from ..config import ConfigError, validate_mic_config
from .consistency import (
    ConsistencyWeights,
    MaskedViews,
    check_supported,
    masked_consistency_losses,
    region_scores,
)
from .masking import StrongView, random_patch_mask
from .pseudo_labels import select_pseudo_boxes
from .student_teacher import StudentTeacher


@META_ARCH_REGISTRY.register()
class MICRCNN(StudentTeacher):
    """Masked Image Consistency (Hoyer et al., CVPR 2023) around any R-CNN of Detectron2.

    In training, a batch holds source and target images, told apart by ``"domain"``. The losses are
    named by what they come from: ``source/...`` (L_S) and ``masked/...`` (lambda_M L_M). In
    evaluation it answers as the teacher or the student does.
    How the teacher is kept up to date: :class:`StudentTeacher`.
    """

    @configurable
    def __init__(
        self,
        *,
        student,
        teacher,
        strong_view,
        evaluate="teacher",
        burn_in_steps=0,
        alpha=0.9,
        teacher_input_size=0,
        score_threshold=0.8,
        nms_threshold=0.5,
        max_boxes=100,
        min_box_size=0.0,
        mask_block_size=32,
        mask_ratio=0.5,
        masked_domains="target",
        consistency_weight=1.0,
        ramp_up_steps=0,
        consistency=None,
        empty_images="skip",
        class_names=(),
    ):
        """
        Args:
            student, teacher (nn.Module): two R-CNNs (``backbone``, ``proposal_generator``,
                ``roi_heads``, ``preprocess_image``) of the same architecture.
            strong_view (callable): (3, H, W) image in [0, 255] -> the student's view of it.
            score_threshold (float or sequence): delta, one for all classes or one a class.
            consistency (ConsistencyWeights): weights of the terms of L_M.
            class_names (sequence of str): used in logs; the index where there is none.

        The others are keys below ``MODEL.MIC``; see :mod:`mic_det.config`.

        Raises:
            TypeError: where the student is not an R-CNN that the masked loss is defined for.
            ValueError: where the two do not have the same classes.
        """
        _check_pair(student, teacher)
        super().__init__(student, teacher, alpha=alpha, burn_in_steps=burn_in_steps, evaluate=evaluate)
        self.strong_view = strong_view
        self.teacher_input_size = teacher_input_size
        self.select = dict(
            score_threshold=score_threshold, nms_threshold=nms_threshold, max_boxes=max_boxes, min_size=min_box_size
        )
        self.mask = dict(block_size=mask_block_size, ratio=mask_ratio)
        self.mask_target = masked_domains in ("target", "both")
        self.mask_source = masked_domains in ("source", "both")
        self.consistency_weight = consistency_weight
        self.ramp_up_steps = ramp_up_steps
        self.consistency = consistency or ConsistencyWeights()
        self.empty_images = empty_images
        self.class_names = class_names

    @classmethod
    def from_config(cls, cfg):
        validate_mic_config(cfg)
        mic = cfg.MODEL.MIC
        student = META_ARCH_REGISTRY.get(mic.STUDENT)(cfg)
        classes = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes", ()) if cfg.DATASETS.TRAIN else ()
        c = mic.CONSISTENCY
        return {
            "student": student,
            "teacher": copy.deepcopy(student),
            "strong_view": StrongView(
                mic.COLOR.JITTER_STRENGTH, mic.COLOR.JITTER_PROB, mic.COLOR.BLUR_SIGMA, mic.COLOR.BLUR_PROB,
                channels=cfg.INPUT.FORMAT,
            ),
            "evaluate": mic.EVALUATE,
            "burn_in_steps": mic.BURN_IN_STEPS,
            "alpha": mic.TEACHER.ALPHA,
            "teacher_input_size": mic.TEACHER.INPUT_SIZE,
            "score_threshold": mic.PSEUDO_BOXES.SCORE_THRESHOLD_PER_CLASS or mic.PSEUDO_BOXES.SCORE_THRESHOLD,
            "nms_threshold": mic.PSEUDO_BOXES.NMS_THRESHOLD,
            "max_boxes": mic.PSEUDO_BOXES.MAX_PER_IMAGE,
            "min_box_size": mic.PSEUDO_BOXES.MIN_SIZE,
            "mask_block_size": mic.MASK.BLOCK_SIZE,
            "mask_ratio": mic.MASK.RATIO,
            "masked_domains": mic.MASK.DOMAINS,
            "consistency_weight": c.WEIGHT,
            "ramp_up_steps": c.RAMP_UP_STEPS,
            "consistency": ConsistencyWeights(
                c.RPN_CLS_WEIGHT, c.ROI_CLS_WEIGHT, c.RPN_LOC_WEIGHT, c.ROI_LOC_WEIGHT, c.QUALITY
            ),
            "empty_images": c.EMPTY_IMAGES,
            "class_names": tuple(classes),
        }  # fmt: skip

    def forward(self, batched_inputs):
        """
        Args:
            batched_inputs (list[dict]): Detectron2's format. In training each dict also has
                ``"domain"``: ``"source"`` (with ``"instances"``) or ``"target"``. A missing domain
                means source.

        Returns:
            In training, dict[str, Tensor] of losses; else Detectron2's list of outputs.
        """
        if not self.training:
            return self.inference(batched_inputs)
        self.begin_step()
        source = [x for x in batched_inputs if x.get("domain", "source") == "source"]
        target = [x for x in batched_inputs if x.get("domain", "source") == "target"]
        if not source:
            raise ValueError("a training batch needs at least one source image: check SOLVER.IMS_PER_BATCH")
        weight = self.current_consistency_weight()
        masked_target = target if weight and self.mask_target else []
        masked_source = source if weight and self.mask_source else []

        # 1. the teacher looks at whole target images
        pseudo, teacher_probs = self.make_pseudo_boxes(masked_target) if masked_target else ([], None)
        # 2.-3. one pass of the student's backbone over source images and masked views
        masked = masked_target + masked_source
        views = [{"image": self.strong_view(x["image"].to(self.device))} for x in masked]
        images = self.student.preprocess_image(source + views)
        n = len(source)
        if masked:
            self.hide_patches(_rows(images, n, len(images)))
        features = self.student.backbone(images.tensor)
        # 4. losses
        truth = [x["instances"].to(self.device) for x in source]
        losses = self.source_losses(_rows(images, 0, n), _rows(features, 0, n), truth)
        if masked:
            trusted = [_with_unit_scores(truth[i]) for i in range(len(masked_source))]
            targets = [_with_scores(x) for x in pseudo] + trusted
            used = [len(x) > 0 or self.empty_images == "background" for x in pseudo] + [True] * len(trusted)
            end = len(images)
            masked_views = MaskedViews(
                _rows(images, n, end), _rows(features, n, end), targets, used,
                _background_prob(teacher_probs, len(pseudo), len(trusted)),
            )  # fmt: skip
            with get_event_storage().name_scope("masked"):
                terms = masked_consistency_losses(self.student, masked_views, self.consistency)
            losses.update({f"masked/{k}": v * weight for k, v in terms.items()})
        return losses

    def hide_patches(self, images, generator=None):
        """Multiply normalised images with a patch mask, in place: hidden patches get the mean colour."""
        sizes, padded = images.image_sizes, images.tensor.shape[-2:]
        images.tensor *= random_patch_mask(sizes, padded, **self.mask, generator=generator, device=self.device)

    def source_losses(self, images, features, truth):
        """L_S: the student's own supervised losses, as Detectron2 computes them."""
        storage = get_event_storage()
        with storage.name_scope("source"):
            proposals, losses = self.student.proposal_generator(images, features, truth)
            _, roi_losses = self.student.roi_heads(images, features, proposals, truth)
            storage.put_scalar("num_boxes", sum(map(len, truth)) / len(truth))
        return {f"source/{k}": v for k, v in {**losses, **roi_losses}.items()}

    @torch.no_grad()
    def make_pseudo_boxes(self, batched_inputs):
        """The teacher's pseudo-boxes for whole target images, in the frame of ``x["image"]``.

        Returns:
            (list[Instances], callable): pseudo-boxes of each image, and a function from one box
            tensor (R_i, 4) an image to the teacher's background probability (R_i,) of each region.
        """
        teacher = self.teacher
        inputs, scales = self._teacher_inputs(batched_inputs)
        images = teacher.preprocess_image(inputs)
        features = teacher.backbone(images.tensor)
        proposals, _ = teacher.proposal_generator(images, features, None)
        detections, _ = teacher.roi_heads(images, features, proposals, None)
        pseudo = []
        for x, result, (sx, sy) in zip(batched_inputs, detections, scales):
            result.pred_boxes.scale(1 / sx, 1 / sy)
            result._image_size = tuple(x["image"].shape[-2:])
            pseudo.append(select_pseudo_boxes(result, **self.select))
        self._log_pseudo_boxes(pseudo)

        @torch.no_grad()
        def background_prob(boxes):
            boxes = [Boxes(b * b.new_tensor([sx, sy, sx, sy])) for b, (sx, sy) in zip(boxes, scales)]
            logits, _ = region_scores(teacher.roi_heads, features, boxes)
            return logits.softmax(dim=1)[:, -1].split([len(b) for b in boxes])

        return pseudo, background_prob

    def _teacher_inputs(self, batched_inputs):
        """Target images at the teacher's input size, and the factors (x, y) from the student's view."""
        inputs, scales = [], []
        for x in batched_inputs:
            image = x["image"]
            height, width = image.shape[-2:]
            if self.teacher_input_size:
                factor = self.teacher_input_size / min(height, width)
                size = (round(height * factor), round(width * factor))
                image = nn.functional.interpolate(
                    image[None].to(self.device).float(), size=size, mode="bilinear", antialias=True
                )[0]
            inputs.append({"image": image})
            scales.append((image.shape[-1] / width, image.shape[-2] / height))
        return inputs, scales

    def _log_pseudo_boxes(self, pseudo):
        storage = get_event_storage()
        counts = [len(x) for x in pseudo]
        storage.put_scalar("pseudo/num_boxes", sum(counts) / len(counts))
        storage.put_scalar("pseudo/empty_images", counts.count(0) / len(counts))
        if sum(counts):
            storage.put_scalar("pseudo/mean_score", torch.cat([x.scores for x in pseudo]).mean())
        classes = torch.cat([x.gt_classes for x in pseudo])
        per_class = torch.bincount(classes, minlength=self.teacher.roi_heads.num_classes).tolist()
        for i, count in enumerate(per_class):
            name = self.class_names[i] if i < len(self.class_names) else i
            storage.put_scalar(f"pseudo/num_boxes_{name}", count / len(counts), smoothing_hint=False)

    def current_consistency_weight(self):
        """lambda_M at this step: 0 in burn-in, then ramped up over ``ramp_up_steps``."""
        after = self.steps - self.burn_in_steps
        if after < 0:
            return 0.0
        ramp = min(1.0, (after + 1) / self.ramp_up_steps) if self.ramp_up_steps else 1.0
        return self.consistency_weight * ramp


def _check_pair(student, teacher):
    for model in (student, teacher):
        for part in ("backbone", "proposal_generator", "roi_heads", "preprocess_image"):
            if getattr(model, part, None) is None:
                raise TypeError(
                    f"MODEL.MIC.STUDENT is {type(model).__name__}, which has no {part}: "
                    "MICRCNN wraps R-CNN meta-architectures such as GeneralizedRCNN."
                )
        check_supported(model.roi_heads)
    classes = student.roi_heads.num_classes, teacher.roi_heads.num_classes
    if classes[0] != classes[1]:
        raise ConfigError(
            f"the student has {classes[0]} classes and the teacher {classes[1]}: "
            "both must be built with the same MODEL.ROI_HEADS.NUM_CLASSES."
        )


def _rows(batch, start, end):
    """Rows of an ImageList or of a dict of features, as views."""
    if isinstance(batch, ImageList):
        return ImageList(batch.tensor[start:end], batch.image_sizes[start:end])
    return {k: v[start:end] for k, v in batch.items()}


def _with_scores(instances):
    """Pseudo-boxes with their scores under a name that Detectron2's sampling hands on (``gt_``)."""
    return _labelled(instances, instances.scores)


def _with_unit_scores(instances):
    """True boxes, which are fully trusted."""
    return _labelled(instances, torch.ones(len(instances), device=instances.gt_boxes.device))


def _labelled(instances, scores):
    kept = type(instances)(instances.image_size)
    kept.gt_boxes, kept.gt_classes, kept.gt_scores = instances.gt_boxes, instances.gt_classes, scores
    return kept


def _background_prob(teacher_probs, num_target, num_source):
    """Background weight of regions: the teacher's on target images, 1 where the truth is known."""

    def background_prob(boxes):
        target = list(teacher_probs(boxes[:num_target])) if num_target else []
        return target + [b.new_ones(len(b)) for b in boxes[num_target : num_target + num_source]]

    return background_prob
