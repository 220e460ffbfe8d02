"""The interface of a term of the loss L = L_S + L_T + lambda_M L_M."""

from dataclasses import dataclass, field


@dataclass
class Step:
    """What is known in one training step.

    Attributes:
        source, target (list[dict]): the labelled and the unlabelled images of the batch.
        number (int): optimizer steps taken so far.
        ramp (float): share of lambda_M: 0 in burn-in, then growing to 1.
        truth (dict[str, list]): labels of the source images by name of task.
        pseudo (dict): pseudo-labels of the target images by name of task; of no image where no term needs them.
        mixed_labels (list): labels of the mixed target images.
    """

    source: list
    target: list
    number: int = 0
    ramp: float = 1.0
    truth: dict = field(default_factory=dict)
    pseudo: dict = field(default_factory=dict)
    mixed_labels: list = field(default_factory=list)


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
