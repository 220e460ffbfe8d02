"""MIC: a model that learns from an unlabelled target domain by masked image consistency."""

import copy
from collections.abc import Iterator, Sequence
from typing import Callable, Optional, Union

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from ..config import validate_mic_config
from ..config.models import is_label_free
from ..data.classes import known_class_names
from ..utils.step_timer import record
from .colour_transfer import ColourTransfer
from .inputs import encoder, preprocess, teacher_view
from .masking import PatchMask, RandomErasing, StrongAugmentation
from .mixing import mix_batch
from .sharpness import SharpnessAware
from .student_teacher import StudentTeacher
from .supported import check_pair
from .tasks import RCNNTask, Task, find_tasks
from .terms import Alignment, MaskedConsistency, Step, Supervised, Term, unsupervised_terms
from .views import Views


@META_ARCH_REGISTRY.register()
class MIC(StudentTeacher):
    """Masked Image Consistency (Hoyer et al., CVPR 2023) around a detector, a segmentation model, or both in one.

    In training, a batch has source and target images, whose domain is in ``"domain"``. Without :class:`Supervised`
    among the terms, it has unlabelled target images alone (source-free adaptation). Names of losses begin with their
    term: ``source/...`` (L_S), ``align/...`` and ``mix/...`` (L_T: alignment, ClassMix) and ``masked/...``
    (lambda_M L_M). In evaluation the teacher or the student predicts. :class:`StudentTeacher` updates the teacher.

    Attributes:
        wraps_student (bool): configs name the architecture of the student in ``MODEL.MIC.STUDENT``.
        tasks (list[Task]): one for each kind of head of the student.
        terms (list[Term]): the terms of the loss.
    """

    wraps_student = True

    @configurable
    def __init__(
        self,
        *,
        student: nn.Module,
        teacher: Optional[nn.Module] = None,
        tasks: Optional[Sequence[Task]] = None,
        terms: Optional[Sequence[Term]] = None,
        strong_view: Optional[Callable[[torch.Tensor], torch.Tensor]] = None,
        strong_source: bool = False,
        strong_masked: bool = True,
        erase: Optional[Callable[[torch.Tensor], torch.Tensor]] = None,
        colour_transfer: Optional[ColourTransfer] = None,
        mask: Optional[PatchMask] = None,
        alpha: float = 0.9,
        burn_in_steps: int = 0,
        ema_in_burn_in: bool = False,
        ramp_up_steps: int = 0,
        teacher_input_size: int = 0,
        evaluate: str = "teacher",
        class_names: Sequence[str] = (),
        sharpness: Optional[SharpnessAware] = None,
    ) -> None:
        """
        Args:
            student, teacher (nn.Module): two models of the same architecture; teacher None = a copy of the student.
            tasks (list[Task]): tasks of the student's heads; None = those of :func:`find_tasks`, with defaults.
            terms (list[Term]): terms of the loss; None = L_S + L_M with the paper's settings.
            strong_view (callable): (3, H, W) image in [0, 255] -> the student's view of it; None = the paper's.
            strong_source (bool): whether source images have the strong view, too.
            strong_masked (bool): whether masked images have it before the mask.
            erase (callable): hides a part of such a source image; target images have the mask instead.
            colour_transfer (ColourTransfer): gives source images the colours of the target images of the batch.
            mask (PatchMask): hides patches of the masked views; None = the paper's: 32 of 800 pixels and r = 0.5.
            alpha (float): limit of the teacher's average, in [0, 1).
            burn_in_steps (int): optimizer steps without L_M, in which the teacher is a copy of the student.
            ema_in_burn_in (bool): True: the teacher is the average in these steps, too.
            ramp_up_steps (int): optimizer steps over which lambda_M then grows linearly from 0.
            teacher_input_size (int): short side in pixels at which the teacher sees images; 0 = as the student does.
            evaluate (str): "teacher", "student" or "both"; see :class:`StudentTeacher`.
            class_names (sequence of str): used in logs; the index where there is none.
            sharpness (SharpnessAware): takes the losses at the worst weights nearby; None = at the weights themselves.

        Raises:
            TypeError: where the masked loss is not defined for the student's heads.
            ValueError: where student and teacher do not have the same classes.
        """
        teacher = copy.deepcopy(student) if teacher is None else teacher
        tasks = [task() for task in find_tasks(student)] if tasks is None else list(tasks)
        check_pair(student, teacher, tasks)
        super().__init__(
            student, teacher, alpha=alpha, burn_in_steps=burn_in_steps, ema_in_burn_in=ema_in_burn_in,
            evaluate=evaluate, sharpness=sharpness,
        )  # fmt: skip
        self.tasks = tasks
        self.needs_features = any(task.needs_features for task in tasks)
        self.masked_apart = any(task.masked_apart for task in tasks)
        if terms is None:
            terms = [Supervised(), MaskedConsistency({task.name: 1.0 for task in tasks})]
        self.terms = list(terms)
        self.needs_labels = any(isinstance(term, Supervised) for term in self.terms)
        for part in (*self.terms, *self.tasks):
            if isinstance(getattr(part, "module", None), nn.Module):
                self.add_module(part.name, part.module)
        self.strong_view = strong_view or StrongAugmentation(0.2, 0.8, (0.15, 1.15), 0.5)
        self.strong_source, self.strong_masked, self.erase = strong_source, strong_masked, erase
        self.colour_transfer = colour_transfer
        self.mask = mask or PatchMask()
        self.ramp_up_steps = ramp_up_steps
        self.teacher_input_size = teacher_input_size
        self.class_names = class_names

    @classmethod
    def from_config(cls, cfg):
        validate_mic_config(cfg)
        mic = cfg.MODEL.MIC
        student = META_ARCH_REGISTRY.get(mic.STUDENT)(cfg)
        alignment = Alignment.from_config(cfg, student)
        shared = {"share_regions": bool(alignment) and alignment.module.shares_source_regions}
        tasks = [kind.from_config(cfg, **(shared if kind is RCNNTask else {})) for kind in find_tasks(student)]
        supervised = [] if is_label_free(cfg) else [Supervised()]
        terms = [*supervised, MaskedConsistency.from_config(cfg, tasks), *unsupervised_terms(cfg, student, tasks)]
        if alignment:
            terms.append(alignment)
        strong = mic.STRONG_AUG
        return {
            "student": student,
            "tasks": tasks,
            "terms": terms,
            "strong_view": StrongAugmentation(
                strong.JITTER_STRENGTHS or strong.JITTER_STRENGTH, strong.JITTER_PROB, strong.BLUR_SIGMA,
                strong.BLUR_PROB, channels=cfg.INPUT.FORMAT, grayscale_prob=strong.GRAYSCALE_PROB,
            ),
            "strong_source": strong.ON_SOURCE,
            "strong_masked": strong.ON_MASKED,
            "erase": RandomErasing(strong.ERASE_PROB, strong.ERASE_AREA, cfg.MODEL.PIXEL_MEAN)
            if strong.ERASE_PROB else None,
            "colour_transfer": ColourTransfer(strong.COLOR_TRANSFER_PROB) if strong.COLOR_TRANSFER_PROB else None,
            "mask": PatchMask.from_config(cfg),
            "alpha": mic.TEACHER.ALPHA,
            "burn_in_steps": mic.BURN_IN_STEPS,
            "ema_in_burn_in": mic.TEACHER.EMA_IN_BURN_IN,
            "ramp_up_steps": mic.CONSISTENCY.RAMP_UP_STEPS,
            "teacher_input_size": mic.TEACHER.INPUT_SIZE,
            "evaluate": mic.EVALUATE,
            "class_names": known_class_names(cfg),
            "sharpness": SharpnessAware(mic.SAM.RHO) if mic.SAM.RHO else None,
        }  # fmt: skip

    def forward(self, batched_inputs: list[dict]) -> Union[dict[str, torch.Tensor], list[dict]]:
        """
        Args:
            batched_inputs (list[dict]): Detectron2's format. In training each dict also has
                ``"domain"``: ``"source"`` (with ``"instances"`` for boxes, ``"sem_seg"`` for segmentation) or
                ``"target"``, with ``"valid_pixels"`` where there are margins, or ``"labelled_target"``, with the labels
                of a source image. A missing domain means source.

        Returns:
            In training, dict[str, Tensor] of losses; else Detectron2's list of outputs.
        """
        if not self.training:
            return self.inference(batched_inputs)
        return next(self._losses(batched_inputs, merged=True))

    def losses_in_parts(self, batched_inputs: list[dict]) -> Iterator[dict[str, torch.Tensor]]:
        """The losses of ``forward`` in parts. A trainer backpropagates each part before it takes the next one.

        Terms without a common view go through the student one after the other, to save memory. The sum of all parts has
        the gradient of ``forward``'s losses if the backbone processes each image alone (without trained BatchNorm).

        Returns:
            iterator[dict[str, Tensor]]: losses of each part.
        """
        return self._losses(batched_inputs, merged=False)

    def _losses(self, batched_inputs, merged):
        """L = L_S + L_T + lambda_M L_M, each term on its views."""
        self.begin_step()
        step = self.new_step(batched_inputs)
        terms = [term for term in self.terms if term.active(step)]
        # 1. the teacher predicts on whole target images
        if step.target and any(term.needs_teacher(step) for term in terms):
            step.pseudo = self.teach(step.target)
            for task in self.tasks:
                task.follow(step.pseudo[task.name], step.all_truth(task))
        # 2. the student's views, by name
        wanted = [(term, term.views(step)) for term in terms]
        views = self.make_views(step, {name for _, names in wanted for name in names})
        if self.sharpness is not None:  # what follows is taken at the worst weights nearby
            smoothed = [(term, names) for term, names in wanted if term.smoothed]
            losses = next(self._losses_on(views, smoothed, step, merged=True))
            self.sharpness.ascend(sum(losses.values()), self.student.parameters())
        yield from self._losses_on(views, wanted, step, merged)

    def _losses_on(self, views, wanted, step, merged):
        for part in views.parts(wanted, merged):
            # 3. one pass of the student's encoder, or one for each part
            with record("student forward"):
                views.run(encoder(self.student) if self.needs_features else None, part.names, self.masked_apart)
            # 4. the terms
            losses = {}
            with record("losses"):
                for term in part.terms:
                    losses.update(term.losses(self, views, step))
            yield losses
            del losses
            views.forget()  # frees memory for the next part

    def new_step(self, batched_inputs):
        """The :class:`Step` of a batch, before anything is computed."""
        step = Step.of_batch(batched_inputs, self.tasks, self.device, self.steps, self.ramp())
        if not (step.source or step.labelled_target if self.needs_labels else step.target):
            kind, key = ("source", "") if self.needs_labels else ("target", "_TARGET")
            raise ValueError(f"a training batch needs at least one {kind} image: check SOLVER.IMS_PER_BATCH{key}")
        return step

    def make_views(self, step, names):
        """The named :class:`Views` of a step: colour changes, pasted classes and patch masks; no features yet."""
        with record("mask and colour"):
            targets, sources = step.num_masked or (len(step.target), len(step.source))
            source = step.source
            if self.colour_transfer is not None:
                source = self.colour_transfer(source, step.target, self.device)
            strong = {"masked_target": step.target[:targets], "masked_source": source[:sources]}
            if "mixed_target" in names:
                strong["mixed_target"], step.mixed_labels = mix_batch(
                    step.source, step.truth["pixels"], step.target, step.pseudo["pixels"].pixels,
                    self.student.sem_seg_head.ignore_value, self.device,
                )  # fmt: skip
            strong = {
                name: self.strong_views(inputs) if self.strong_masked or name == "mixed_target" else inputs
                for name, inputs in strong.items() if name in names
            }  # fmt: skip
            whole = {"source": source, "labelled_target": step.labelled_target}
            whole["target"] = step.target if "target" in names else []
            if self.strong_source:  # both domains: otherwise colour changes would reveal the domain
                whole = {name: self.strong_views(inputs) for name, inputs in whole.items()}
                for x in (*whole["source"], *whole["labelled_target"]) if self.erase else ():
                    x["image"] = self.erase(x["image"])
        inputs = {**whole, **strong}
        images = preprocess(self.student, [x for view in inputs.values() for x in view])
        views = Views(images, {name: len(view) for name, view in inputs.items()})
        masked = views.images_of("masked_target", "masked_source")
        if len(masked):
            with record("mask and colour"):
                self.hide_patches(masked)
        return views

    def strong_views(self, inputs):
        """The student's strong view of each image, as inputs of a model."""
        return [{"image": self.strong_view(x["image"].to(self.device))} for x in inputs]

    def hide_patches(self, images, generator=None):
        """Multiply normalised images (``ImageList``) by a patch mask, in place. Hidden patches get the mean colour."""
        images.tensor *= self.mask(images, generator)

    def teach(self, batched_inputs):
        """The teacher's pseudo-labels of whole target images, by name of task. They are also logged."""
        for task in self.tasks:
            task.check_inputs(batched_inputs)
        with record("teacher"):
            pseudo = self.pseudo_labels(batched_inputs)
        for task in self.tasks:
            task.log(pseudo[task.name], self.teacher, self.class_names)
        return pseudo

    @torch.no_grad()
    def pseudo_labels(self, batched_inputs, model=None):
        """Pseudo-labels of whole images, in the frame of ``x["image"]`` (MIC, Sec. 3.3).

        Args:
            batched_inputs (list[dict]): mapped images.
            model (nn.Module): in eval mode; None = the teacher.

        Returns:
            dict: by name of task, for example ``["boxes"].boxes`` (:class:`PseudoBoxes`).
        """
        model = self.teacher if model is None else model
        view = self.teacher_view(batched_inputs, model)
        return {task.name: task.pseudo_labels(model, view) for task in self.tasks}

    @torch.no_grad()
    def teacher_view(self, batched_inputs, model=None):
        """The :class:`TeacherView` of mapped images for a model in eval mode; None = the teacher."""
        model = self.teacher if model is None else model
        return teacher_view(model, batched_inputs, self.teacher_input_size, self.needs_features, self.steps)

    def task(self, name):
        """The task of this name ("boxes", "pixels"), or None where the student has no such head."""
        return next((task for task in self.tasks if task.name == name), None)

    def ramp(self):
        """Share of lambda_M at this step: 0 in burn-in, then growing to 1 over ``ramp_up_steps``."""
        after = self.steps - self.burn_in_steps
        if after < 0:
            return 0.0
        return min(1.0, (after + 1) / self.ramp_up_steps) if self.ramp_up_steps else 1.0
