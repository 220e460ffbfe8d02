"""Which models MIC can wrap."""

from ..errors import ConfigError


def check_pair(student, teacher, tasks):
    """Raise where a task's losses are not defined for a student and teacher, or the two have other classes.

    Raises:
        TypeError: names the part that is missing or of an unknown kind.
        ConfigError: names the key that the two differ in.
    """
    for model in (student, teacher):
        if getattr(model, "backbone", None) is None:
            raise TypeError(f"MODEL.MIC.STUDENT is {type(model).__name__}, which has no backbone: MIC cannot wrap it.")
    for task in tasks:
        for model in (student, teacher):
            if not type(task).applies_to(model):
                raise TypeError(f"{type(model).__name__} has no heads for {type(task).__name__}.")
            task.check(model)
        ours, theirs = task.num_classes(student), task.num_classes(teacher)
        if ours != theirs:
            raise ConfigError(
                f"the student has {ours} classes and the teacher {theirs}: "
                f"both must be built with the same {task.classes_key(student)}."
            )
