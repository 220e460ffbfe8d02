"""L_S: the student's own losses on labelled images: of the source, and of the target where some are labelled."""

from detectron2.utils.events import get_event_storage

from .base import Term


class Supervised(Term):
    """L_S, as Detectron2 computes it, for all of the student's heads."""

    name = "source"

    def views(self, step):
        return ("source", "labelled_target")

    def losses(self, model, views, step):
        losses, view = {}, views[self.views(step)]
        with get_event_storage().name_scope("source"):
            for task in model.tasks:
                losses.update(task.supervised(model.student, view, step.all_truth(task)))
        return {f"source/{k}": v for k, v in losses.items()}
