"""MICRCNN: a detector that learns from an unlabelled target domain by masked image consistency."""

import copy

import torch
from detectron2.config import configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage

from ..config_checks import validate_mic_config
from .aligned_views import alignment_losses
from .alignment import DomainAlignment
from .consistency import (
    ConsistencyWeights,
    MaskedViews,
    masked_consistency_losses,
    pseudo_targets,
    true_targets,
)
from .masking import StrongView, random_patch_mask
from .mixing import mix_batch
from .regions import supervised_roi_losses
from .rows import RowViews, image_rows, row_groups
from .sections import section
from .segmentation import PixelLabels, SemSegSettings, pixel_loss
from .student_teacher import StudentTeacher
from .supported import check_pair
from .teacher_labels import TeacherLabels, log_pseudo_boxes, preprocess, teacher_labels


@META_ARCH_REGISTRY.register()
class MICRCNN(StudentTeacher):
    """Masked Image Consistency (Hoyer et al., CVPR 2023) around an R-CNN, a PanopticFPN or a SemanticSegmentor.

    In training, a batch holds source and target images, told apart by ``"domain"``. The losses are
    named by what they come from: ``source/...`` (L_S), ``align/...`` and ``mix/...`` (L_T: alignment of a
    detector, ClassMix of a segmentation) and ``masked/...`` (lambda_M L_M). In evaluation it answers as
    the teacher or the student does.
    How the teacher is kept up to date: :class:`StudentTeacher`.
    """

    @configurable
    def __init__(
        self,
        *,
        student,
        teacher,
        strong_view,
        strong_source=False,
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
        sem_seg=None,
        class_names=(),
    ):
        """
        Args:
            student, teacher (nn.Module): two models of the same architecture with a ``backbone`` and an R-CNN's
                heads (``proposal_generator``, ``roi_heads``), a ``sem_seg_head``, or both.
            strong_view (callable): (3, H, W) image in [0, 255] -> the student's view of it.
            strong_source (bool): whether source images are seen that way too.
            score_threshold (float or sequence): delta, one for all classes or one a class.
            consistency (ConsistencyWeights): weights of the terms of L_M.
            alignment (DomainAlignment): L_T; None leaves it out.
            sem_seg (SemSegSettings): of the segmentation head, where there is one.
            class_names (sequence of str): used in logs; the index where there is none.

        The others are keys below ``MODEL.MIC``; see :mod:`mic_det.config`.

        Raises:
            TypeError: where the student has heads that the masked loss is not defined for.
            ValueError: where the two do not have the same classes.
        """
        check_pair(student, teacher)
        super().__init__(student, teacher, alpha=alpha, burn_in_steps=burn_in_steps, evaluate=evaluate)
        self.strong_view = strong_view
        self.strong_source = strong_source
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
        self.sem_seg = sem_seg or SemSegSettings()
        self.has_boxes = getattr(student, "roi_heads", None) is not None
        self.has_sem_seg = getattr(student, "sem_seg_head", None) is not None
        self.class_names = class_names

    @classmethod
    def from_config(cls, cfg):
        validate_mic_config(cfg)
        mic = cfg.MODEL.MIC
        student = META_ARCH_REGISTRY.get(mic.STUDENT)(cfg)
        classes = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes", ()) if cfg.DATASETS.TRAIN else ()
        c, s = mic.CONSISTENCY, mic.SEM_SEG
        # one mask for boxes and segmentation; a segmentation that trains alone has one of its own
        mask = mic.MASK if getattr(student, "roi_heads", None) is not None else s.MASK
        return {
            "student": student,
            "teacher": copy.deepcopy(student),
            "strong_view": StrongView(
                mic.COLOR.JITTER_STRENGTH, mic.COLOR.JITTER_PROB, mic.COLOR.BLUR_SIGMA, mic.COLOR.BLUR_PROB,
                channels=cfg.INPUT.FORMAT,
            ),
            "strong_source": mic.COLOR.SOURCE,
            "evaluate": mic.EVALUATE,
            "burn_in_steps": mic.BURN_IN_STEPS,
            "alpha": mic.TEACHER.ALPHA,
            "teacher_input_size": mic.TEACHER.INPUT_SIZE,
            "score_threshold": mic.PSEUDO_BOXES.SCORE_THRESHOLD_PER_CLASS or mic.PSEUDO_BOXES.SCORE_THRESHOLD,
            "nms_threshold": mic.PSEUDO_BOXES.NMS_THRESHOLD,
            "max_boxes": mic.PSEUDO_BOXES.MAX_PER_IMAGE,
            "min_box_size": mic.PSEUDO_BOXES.MIN_SIZE,
            "mask_block_size": mask.BLOCK_SIZE,
            "mask_ratio": mask.RATIO,
            "masked_domains": mic.MASK.DOMAINS,
            "consistency_weight": c.WEIGHT,
            "ramp_up_steps": c.RAMP_UP_STEPS,
            "consistency": ConsistencyWeights(
                c.RPN_CLS_WEIGHT, c.ROI_CLS_WEIGHT, c.RPN_LOC_WEIGHT, c.ROI_LOC_WEIGHT, c.QUALITY
            ),
            "empty_images": c.EMPTY_IMAGES,
            "alignment": DomainAlignment.from_config(cfg, student),
            "sem_seg": SemSegSettings(
                s.WEIGHT, s.PIXEL_THRESHOLD, s.IGNORE_TOP, s.IGNORE_BOTTOM, s.MIX_WEIGHT, any(s.MARGINS)
            ),
            "class_names": tuple(classes),
        }  # fmt: skip

    def forward(self, batched_inputs):
        """
        Args:
            batched_inputs (list[dict]): Detectron2's format. In training each dict also has
                ``"domain"``: ``"source"`` (with ``"instances"`` for boxes, ``"sem_seg"`` for segmentation) or
                ``"target"``, with ``"valid_pixels"`` where there are margins. A missing domain means source.

        Returns:
            In training, dict[str, Tensor] of losses; else Detectron2's list of outputs.
        """
        if not self.training:
            return self.inference(batched_inputs)
        return next(self._losses(batched_inputs, merged=True))

    def losses_in_parts(self, batched_inputs):
        """The losses of ``forward``, part by part, for trainers that backpropagate each before they ask for the next.

        Source images, masked target images and mixed images go through the student one after the other, so that
        activations of one part at a time are in memory; views that an alignment compares stay together. The sum of
        all parts has the gradient of ``forward``'s losses, where the backbone treats images one by one (not BatchNorm).

        Returns:
            iterator[dict[str, Tensor]]: losses of each part.
        """
        return self._losses(batched_inputs, merged=False)

    def _losses(self, batched_inputs, merged):
        self.begin_step()
        source = [x for x in batched_inputs if x.get("domain", "source") == "source"]
        target = [x for x in batched_inputs if x.get("domain", "source") == "target"]
        if not source:
            raise ValueError("a training batch needs at least one source image: check SOLVER.IMS_PER_BATCH")
        ramp = self.ramp()
        box_weight = self.consistency_weight * ramp if self.has_boxes else 0.0
        pixel_weight = self.sem_seg.weight * ramp if self.has_sem_seg else 0.0
        consistent = bool(box_weight or pixel_weight)
        labelled = target if consistent and self.mask_target else []
        masked_source = source if consistent and self.mask_source else []
        mixed = target if self.has_sem_seg and self.sem_seg.mix_weight and ramp else []
        align = self.alignment
        whole = target if align is not None else []

        # 1. the teacher looks at whole target images
        taught = self.teach(target) if labelled or mixed else TeacherLabels()
        # 2. what the student sees: source | whole | masked target | masked source | mixed target
        truth = self.source_truth(source)
        with section("mask and colour"):
            if mixed:
                mixed, mixed_labels = mix_batch(
                    source, truth["pixels"], mixed, taught.pixels, self.student.sem_seg_head.ignore_value, self.device
                )
            strong = self.strong_views(labelled + masked_source + mixed)
            # what is aligned has the same colour changes in both domains, which would tell them apart otherwise
            shown = self.strong_views(source + whole) if self.strong_source else source + whole
        images = preprocess(self.student, shown + strong)
        n, m, end = len(source), len(source) + len(whole), len(images) - len(mixed)
        if end > m:
            with section("mask and colour"):
                self.hide_patches(image_rows(images, m, end))
        # 3. one pass of the student's backbone, or one for each part
        cuts = () if merged else (m, end)
        for start, stop in row_groups(len(images), cuts):
            with section("student forward"):
                features = self.student.backbone(images.tensor[start:stop])

            views = RowViews(images, features, (start, n, m, end, stop))

            # 4. losses
            losses, regions = {}, None
            with section("losses"):
                if start == 0:
                    losses, regions = self.source_losses(*views.rows(0, n), truth)
                if start <= m < end <= stop:
                    losses.update(
                        self.masked_losses(
                            *views.rows(m, end), taught if labelled else TeacherLabels(), truth, len(masked_source),
                            box_weight, pixel_weight,
                        )
                    )  # fmt: skip
                if mixed and stop == len(images):
                    loss = pixel_loss(self.student.sem_seg_head, views.rows(end, stop)[1], mixed_labels)
                    losses["mix/loss_sem_seg"] = loss * self.sem_seg.mix_weight
                if align is not None and start == 0:
                    losses.update(alignment_losses(align, self.student, *views.rows(0, m), n, regions, self.steps))
            yield losses
            del losses, features, regions, views  # before the next part needs the memory

    def strong_views(self, inputs):
        """The student's strong view of each image, as inputs of a model."""
        return [{"image": self.strong_view(x["image"].to(self.device))} for x in inputs]

    def source_truth(self, source):
        """Labels of source images on the device: ``boxes`` (Instances) and ``pixels`` (PixelLabels), where used."""
        boxes = [x["instances"].to(self.device) for x in source] if self.has_boxes else []
        pixels = [PixelLabels.of_truth(x["sem_seg"].to(self.device)) for x in source] if self.has_sem_seg else []
        return {"boxes": boxes, "pixels": pixels}

    def hide_patches(self, images, generator=None):
        """Multiply normalised images with a patch mask, in place: hidden patches get the mean colour."""
        sizes, padded = images.image_sizes, images.tensor.shape[-2:]
        images.tensor *= random_patch_mask(sizes, padded, **self.mask, generator=generator, device=self.device)

    def source_losses(self, images, features, truth):
        """L_S: the student's own supervised losses, as Detectron2 computes them.

        A batch without a labelled pixel has a segmentation loss of 0 (Detectron2: NaN, the mean over no pixel).

        Returns:
            (dict[str, Tensor], Regions or None): losses, and the regions of the RoI losses where the
            alignment compares them.
        """
        storage, student, regions, losses = get_event_storage(), self.student, None, {}
        boxes = truth["boxes"]
        with storage.name_scope("source"):
            if self.has_sem_seg:
                losses["loss_sem_seg"] = pixel_loss(student.sem_seg_head, features, truth["pixels"])
            if self.has_boxes:
                proposals, rpn_losses = student.proposal_generator(images, features, boxes)
                if self.alignment is not None and self.alignment.shares_source_regions:
                    roi_losses, regions = supervised_roi_losses(student.roi_heads, features, proposals, boxes)
                else:
                    _, roi_losses = student.roi_heads(images, features, proposals, boxes)
                losses.update({**rpn_losses, **roi_losses})
                storage.put_scalar("num_boxes", sum(map(len, boxes)) / len(boxes))
        return {f"source/{k}": v for k, v in losses.items()}, regions

    def masked_losses(self, images, features, taught, truth, num_source, box_weight, pixel_weight):
        """lambda_M L_M on masked target images, then ``num_source`` masked source images.

        Returns:
            dict[str, Tensor]: losses.
        """
        losses = {}
        if box_weight:
            terms = self.masked_box_losses(images, features, taught, truth["boxes"][:num_source])
            losses.update({f"masked/{k}": v * box_weight for k, v in terms.items()})
        if pixel_weight:
            targets = taught.pixels + truth["pixels"][:num_source]
            losses["masked/loss_sem_seg"] = pixel_loss(self.student.sem_seg_head, features, targets) * pixel_weight
        return losses

    def masked_box_losses(self, images, features, taught, source_boxes):
        """The detector's part of L_M on masked target images, then masked source images, before lambda_M."""
        pseudo = taught.boxes
        used = [len(x) > 0 or self.empty_images == "background" for x in pseudo] + [True] * len(source_boxes)
        views = MaskedViews(
            images, features, pseudo_targets(pseudo) + true_targets(source_boxes), used, taught.background_prob,
            [False] * len(pseudo) + [True] * len(source_boxes),
        )  # fmt: skip
        with get_event_storage().name_scope("masked"):
            return masked_consistency_losses(self.student, views, self.consistency)

    def teach(self, batched_inputs):
        """The teacher's labels of whole target images (:class:`TeacherLabels`), which are logged too."""
        if self.has_sem_seg and self.sem_seg.margins and any("valid_pixels" not in x for x in batched_inputs):
            raise ValueError(
                'a target image has no "valid_pixels", which MODEL.MIC.SEM_SEG.MARGINS needs: map it with DomainMapper.'
            )
        with section("teacher"):
            found = teacher_labels(self.teacher, batched_inputs, self.select, self.teacher_input_size, self.sem_seg)
        if self.has_boxes:
            log_pseudo_boxes(found.boxes, self.teacher.roi_heads.num_classes, self.class_names)
        if self.has_sem_seg:
            get_event_storage().put_scalar("pseudo/pixel_quality", torch.stack(found.quality).mean())
        return found

    def make_pseudo_boxes(self, batched_inputs):
        """``boxes`` and ``background_prob`` of :meth:`teach`."""
        found = self.teach(batched_inputs)
        return found.boxes, found.background_prob

    def ramp(self):
        """Share of lambda_M at this step: 0 in burn-in, then growing to 1 over ``ramp_up_steps``."""
        after = self.steps - self.burn_in_steps
        if after < 0:
            return 0.0
        return min(1.0, (after + 1) / self.ramp_up_steps) if self.ramp_up_steps else 1.0

    def current_consistency_weight(self):
        """lambda_M of boxes at this step."""
        return self.consistency_weight * self.ramp()
