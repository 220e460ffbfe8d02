"""The interface of a term of the loss L = L_S + L_T + lambda_M L_M."""

from dataclasses import dataclass, field
from typing import Optional

from ...data.target_labels import LABELLED_TARGET


@dataclass
class Step:
    """What is known in one training step.

    Attributes:
        source (list[dict]): the labelled source images of the batch.
        target (list[dict]): its unlabelled target images.
        labelled_target (list[dict]): its labelled target images. L_S alone uses them.
        number (int): optimizer steps taken so far.
        ramp (float): share of lambda_M: 0 in burn-in, then growing to 1.
        truth, labelled_truth (dict[str, list]): labels of the source images and of the labelled target images, by name
            of task.
        pseudo (dict): pseudo-labels of the target images by name of task; of no image where no term needs them.
        mixed_labels (list): labels of the mixed target images.
        num_masked (int, int): the masked views have the first images of the target and of the source; None = all.
    """

    source: list
    target: list
    number: int = 0
    ramp: float = 1.0
    truth: dict = field(default_factory=dict)
    pseudo: dict = field(default_factory=dict)
    mixed_labels: list = field(default_factory=list)
    labelled_target: list = field(default_factory=list)
    labelled_truth: dict = field(default_factory=dict)
    num_masked: Optional[tuple] = None

    @classmethod
    def of_batch(cls, batch, tasks, device, number, ramp):
        """A step before anything is computed.

        Args:
            batch (list[dict]): mapped images; ``"domain"`` is "source" (also where it is missing), "target" or
                "labelled_target".
            tasks (list[Task]), device: make the labels.
            number (int), ramp (float): see the attributes.
        """
        parts = {"source": [], "target": [], LABELLED_TARGET: []}
        for x in batch:
            parts[x.get("domain", "source")].append(x)
        return cls(
            parts["source"], parts["target"], number, ramp,
            truth={task.name: task.truth(parts["source"], device) for task in tasks},
            pseudo={task.name: task.no_pseudo_labels() for task in tasks},
            labelled_target=parts[LABELLED_TARGET],
            labelled_truth={task.name: task.truth(parts[LABELLED_TARGET], device) for task in tasks},
        )  # fmt: skip

    def all_truth(self, task):
        """The labels of a task of all labelled images: those of the source first."""
        return self.truth[task.name] + self.labelled_truth.get(task.name, [])


class Term:
    """One term of the loss: which views it needs, and its losses on them.

    A term with parameters of its own is an ``nn.Module`` too, and is a part of the model under its ``name``.
    """

    name = ""
    #: Whether sharpness-aware minimisation looks for the worst weights of this term, too.
    smoothed = True

    def active(self, step):
        """Whether the term has a part in a step."""
        return True

    def needs_teacher(self, step):
        """Whether it needs pseudo-labels of the step's target images."""
        return False

    def views(self, step):
        """Names of the views that it needs (:data:`~mic_det.modeling.views.VIEW_NAMES`)."""
        raise NotImplementedError

    def losses(self, model, views, step):
        """dict[str, Tensor] of scalars, on the features of its views."""
        raise NotImplementedError
