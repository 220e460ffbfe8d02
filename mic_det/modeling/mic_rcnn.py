"""MICRCNN: an R-CNN that learns from an unlabelled target domain by masked image consistency."""

import copy

import torch
from detectron2.config import configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from detectron2.utils.events import get_event_storage

from ..config import ConfigError, validate_mic_config
from .alignment import DomainAlignment
from .consistency import (
    ConsistencyWeights,
    MaskedViews,
    background_weight,
    check_supported,
    masked_consistency_losses,
    pseudo_targets,
    true_targets,
)
from .masking import StrongView, random_patch_mask
from .regions import Regions, supervised_roi_losses, unlabelled_regions
from .student_teacher import StudentTeacher
from .teacher_labels import log_pseudo_boxes, teacher_pseudo_boxes


@META_ARCH_REGISTRY.register()
class MICRCNN(StudentTeacher):
    """Masked Image Consistency (Hoyer et al., CVPR 2023) around any R-CNN of Detectron2.

    In training, a batch holds source and target images, told apart by ``"domain"``. The losses are
    named by what they come from: ``source/...`` (L_S), ``align/...`` (L_T, where there is an alignment)
    and ``masked/...`` (lambda_M L_M). In evaluation it answers as the teacher or the student does.
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
        alignment=None,
        class_names=(),
    ):
        """
        Args:
            student, teacher (nn.Module): two R-CNNs (``backbone``, ``proposal_generator``,
                ``roi_heads``, ``preprocess_image``) of the same architecture.
            strong_view (callable): (3, H, W) image in [0, 255] -> the student's view of it.
            score_threshold (float or sequence): delta, one for all classes or one a class.
            consistency (ConsistencyWeights): weights of the terms of L_M.
            alignment (DomainAlignment): L_T; None leaves it out.
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
        self.alignment = alignment
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
            "alignment": DomainAlignment.from_config(cfg, student),
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
        labelled = target if weight and self.mask_target else []
        masked_source = source if weight and self.mask_source else []
        align = self.alignment
        whole = target if align is not None and align.sees_whole else []
        masked_target = target if align is not None and align.sees_masked else labelled

        # 1. the teacher looks at whole target images
        pseudo, teacher_probs = self.make_pseudo_boxes(labelled) if labelled else ([], None)
        # 2.-3. one pass of the student's backbone: source | whole target | masked target | masked source
        strong = [{"image": self.strong_view(x["image"].to(self.device))} for x in masked_target + masked_source]
        images = self.student.preprocess_image(source + whole + strong)
        n, m, end = len(source), len(source) + len(whole), len(images)
        if strong:
            self.hide_patches(_rows(images, m, end))
        features = self.student.backbone(images.tensor)
        # 4. losses
        truth = [x["instances"].to(self.device) for x in source]
        losses, regions = self.source_losses(_rows(images, 0, n), _rows(features, 0, n), truth)
        first = m if labelled else end - len(masked_source)  # of the views that L_M is for
        masked_regions = None
        if first < end:
            targets = pseudo_targets(pseudo) + true_targets(truth[: len(masked_source)])
            used = [len(x) > 0 or self.empty_images == "background" for x in pseudo] + [True] * len(masked_source)
            masked_views = MaskedViews(
                _rows(images, first, end), _rows(features, first, end), targets, used,
                background_weight(teacher_probs, len(pseudo)),
            )  # fmt: skip
            with get_event_storage().name_scope("masked"):
                terms, masked_regions = masked_consistency_losses(self.student, masked_views, self.consistency)
            losses.update({f"masked/{k}": v * weight for k, v in terms.items()})
        if align is not None:
            end = m + len(masked_target) if align.sees_masked else m
            seen = _rows(images, 0, end), _rows(features, 0, end)
            losses.update(self.alignment_losses(*seen, n, m, regions, masked_regions))
        return losses

    def hide_patches(self, images, generator=None):
        """Multiply normalised images with a patch mask, in place: hidden patches get the mean colour."""
        sizes, padded = images.image_sizes, images.tensor.shape[-2:]
        images.tensor *= random_patch_mask(sizes, padded, **self.mask, generator=generator, device=self.device)

    def source_losses(self, images, features, truth):
        """L_S: the student's own supervised losses, as Detectron2 computes them.

        Returns:
            (dict[str, Tensor], Regions or None): losses, and the regions of the RoI losses where the
            alignment is for regions too.
        """
        storage, student, regions = get_event_storage(), self.student, None
        with storage.name_scope("source"):
            proposals, losses = student.proposal_generator(images, features, truth)
            if self.alignment is not None and self.alignment.instance is not None:
                roi_losses, regions = supervised_roi_losses(student.roi_heads, features, proposals, truth)
            else:
                _, roi_losses = student.roi_heads(images, features, proposals, truth)
            storage.put_scalar("num_boxes", sum(map(len, truth)) / len(truth))
        return {f"source/{k}": v for k, v in {**losses, **roi_losses}.items()}, regions

    def alignment_losses(self, images, features, num_source, num_whole, source_regions, masked_regions):
        """L_T of source images, whole target images and masked ones, in this order (SADA).

        Args:
            images (ImageList), features (dict): of the N images that the classifiers see.
            num_source, num_whole (int): where whole and where masked target images begin.
            source_regions, masked_regions (Regions or None): those that other losses have used already;
                the masked may have those of masked source images behind them.
        """
        regions = None
        if self.alignment.instance is not None:
            parts = [source_regions]
            num = self.alignment.regions_per_image
            for start, end, shared in ((num_source, num_whole, None), (num_whole, len(images), masked_regions)):
                if start < end and shared is not None:
                    parts.append(shared.of_images(end - start))
                elif start < end:
                    views = _rows(images, start, end), _rows(features, start, end)
                    parts.append(unlabelled_regions(self.student, *views, num))
            regions = Regions.join(parts)
        is_target = [i >= num_source for i in range(len(images))]
        losses, accuracies = self.alignment(images.image_sizes, features, is_target, regions, self.steps)
        values = torch.stack(list(accuracies.values())).tolist()  # one transfer for all
        for name, value in zip(accuracies, values):
            if value == value:  # NaN: no region of one domain on that level
                get_event_storage().put_scalar(f"align/{name}", value)
        return {f"align/{k}": v for k, v in losses.items()}

    def make_pseudo_boxes(self, batched_inputs):
        """The teacher's pseudo-boxes for whole target images: see :func:`teacher_pseudo_boxes`."""
        found = teacher_pseudo_boxes(self.teacher, batched_inputs, self.teacher_input_size, **self.select)
        log_pseudo_boxes(found[0], self.teacher.roi_heads.num_classes, self.class_names)
        return found

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
