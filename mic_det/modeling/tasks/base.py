"""The interface of a task: the part of a training step that depends on the kind of head."""


class Task:
    """Labels, losses and pseudo-labels of one kind of head.

    A model has one task for each kind of head of its student. Each task has its own type of pseudo-labels. MIC passes
    them to :meth:`consistency`, and other code finds them by the task's name.
    """

    #: "boxes", "pixels" or "image_class": the key of labels and settings.
    name = ""
    #: Whether the task needs the features of the backbone, not only images.
    needs_features = True
    #: Whether masked views go through the encoder in a pass of their own, which matters to trained BatchNorm.
    masked_apart = False
    #: The :class:`Observations` of the task (a part of MIC under the task's name), or None. MIC calls their ``step``
    #: after each optimizer step, and their ``reset`` before a new training.
    module = None

    @classmethod
    def applies_to(cls, model):
        """Whether a model has the head of this task."""
        raise NotImplementedError

    def check(self, model):
        """Raise TypeError where the losses are not defined for a model's heads. The message names the part."""

    def num_classes(self, model):
        """Number of a model's classes."""
        raise NotImplementedError

    def classes_key(self, model):
        """The config key that sets this number."""
        raise NotImplementedError

    def truth(self, inputs, device):
        """Labels of N labelled images on the device, as a list."""
        raise NotImplementedError

    def check_inputs(self, target):
        """Raise ValueError where the dicts of target images lack an entry that pseudo-labels need in training."""

    def supervised(self, student, view, truth):
        """L_S: the student's own losses on a labelled :class:`View`, as dict[str, Tensor]."""
        raise NotImplementedError

    def pseudo_labels(self, model, view):
        """The labels that a model in eval mode predicts for a :class:`TeacherView`."""
        raise NotImplementedError

    def no_pseudo_labels(self):
        """The pseudo-labels of an empty list of images."""
        raise NotImplementedError

    def log(self, pseudo, model, class_names):
        """Log numbers of a step's pseudo-labels."""

    def follow(self, pseudo, truth):
        """Observe a step's pseudo-labels and the true labels of its labelled images, for the next steps."""

    def consistency(self, student, view, pseudo, truth):
        """L_M without lambda_M on a View of masked images, as dict[str, Tensor].

        First come the images that ``pseudo`` labels, then the masked source images that ``truth`` labels.
        """
        raise NotImplementedError
