"""The interface of a task: what one kind of head adds to a training step."""


class Task:
    """Labels, losses and pseudo-labels of one kind of head.

    A model has one task for each kind of head that its student has. What a task calls pseudo-labels is its own: it is
    handed back to :meth:`consistency`, and other code finds it by the task's name.
    """

    #: "boxes" or "pixels": the key of labels and settings.
    name = ""
    #: Whether the task works on the features of the backbone, and not on images alone.
    needs_features = True
    #: An ``nn.Module`` with what the task remembers (a part of MIC under the task's name), or None. It has ``step``,
    #: which MIC calls after each optimizer step, and ``reset``, for a new training.
    module = None

    @classmethod
    def applies_to(cls, model):
        """Whether a model has the head of this task."""
        raise NotImplementedError

    def check(self, model):
        """Raise TypeError, which names the part, where the losses are not defined for a model's heads."""

    def num_classes(self, model):
        """Number of classes that a model tells apart."""
        raise NotImplementedError

    def classes_key(self, model):
        """The config key that sets this number."""
        raise NotImplementedError

    def truth(self, inputs, device):
        """Labels of N labelled images, on the device: a list."""
        raise NotImplementedError

    def check_inputs(self, target):
        """Raise ValueError where the dicts of target images lack what pseudo-labels need in training."""

    def supervised(self, student, view, truth):
        """L_S: the student's own losses on a labelled :class:`View`, dict[str, Tensor]."""
        raise NotImplementedError

    def pseudo_labels(self, model, view):
        """The labels that a model in eval mode gives to a :class:`TeacherView`."""
        raise NotImplementedError

    def no_pseudo_labels(self):
        """The pseudo-labels of no image."""
        raise NotImplementedError

    def log(self, pseudo, model, class_names):
        """Log numbers of a step's pseudo-labels."""

    def follow(self, pseudo, truth):
        """Learn, for the next steps, from a step's pseudo-labels and the true labels of its source images."""

    def consistency(self, student, view, pseudo, truth):
        """L_M before lambda_M, dict[str, Tensor], on a View of masked images.

        The images are those that ``pseudo`` labels, then those of the labels ``truth`` (of masked source images).
        """
        raise NotImplementedError
