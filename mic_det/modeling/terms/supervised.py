"""L_S: the student's own losses on source images."""

from detectron2.utils.events import get_event_storage

from .base import Term


class Supervised(Term):
    """L_S, as Detectron2 computes it, for all of the student's heads."""

    name = "source"

    def views(self, step):
        return ("source",)

    def losses(self, model, views, step):
        losses, view = {}, views["source"]
        with get_event_storage().name_scope("source"):
            for task in model.tasks:
                losses.update(task.supervised(model.student, view, step.truth[task.name]))
        return {f"source/{k}": v for k, v in losses.items()}
