"""Two folders in, an adapted detector out."""

import contextlib
import os
import shlex
import tempfile
import textwrap
from pathlib import Path

from ...benchmark.synthetic import make_batches
from ...benchmark.timing import alternate
from ...benchmark.variants import make_variant
from ...checkpoint.class_names import checkpoint_class_names
from ...config import student_architecture
from ...data.audit import UNLISTED, check_config_datasets, format_reports
from ...data.classes import categories
from ...engine.setup import get_mic_cfg
from ...errors import DataError
from ...experiments.runs import run_program
from ...utils.ordinary_files import absence
from ...utils.printable import printable
from .configs import ADAPT, SOURCE, TITLES, training_config, write_config
from .inputs import SourceModel, read_labelled, read_source, read_target
from .left_out import images_to_leave_out
from .plan import Machine, Weights, find_weights, make_plan
from .progress import Progress
from .state import State, check_folder

SHOWN = 8  # problems of data sets in the message


def main(args):
    """
    Raises:
        MICError: where an argument is wrong; raised before any training starts.
    """
    out = Path(os.path.abspath(os.path.expanduser(args.output)))
    check_folder(out, [p for p in (args.source, args.target, args.test, args.target_labels) if p])
    with tempfile.TemporaryDirectory() if args.dry_run else contextlib.nullcontext(out) as work:
        job = Job(args, Path(work))
        state = State(out, job.identity(), [out / stage for stage in (SOURCE, ADAPT)])
        if not args.dry_run:
            state.save()  # from here on OUT is known as this call's, whatever ends it
        if "check" in state.done:
            job.continue_without_left_out()
        job.write_data()
        job.write_configs(keep=bool(state.done))
        if "check" not in state.done:
            job.check()
        if not state.done:
            job.tell(job.minutes())
        if args.dry_run:
            print("--dry-run: nothing was trained or written.")
            return
        for part in ("check", *job.stages):
            if part not in state.done:
                if part in job.stages:
                    job.train(part)
                state.finish(part)
        from .results import make_results

        make_results(out, job.before, job.after, job.target, job.test)


class Job:
    """The inputs and the plan of one call."""

    def __init__(self, args, work):
        """
        Args:
            work (path): OUT; in a dry run a temporary folder.
        """
        self.args, self.work = args, work
        machine = Machine.found(args.num_gpus)
        self.source = read_source(args, work)
        self.target = read_target(args, work, self.source)
        self.given = isinstance(self.source, SourceModel)
        if self.given:
            if args.classes or args.weights:
                raise DataError("--classes and --weights need a SOURCE of images: a trained model has its own.")
            self.source_cfg = get_mic_cfg(self.source.config_file)
            self.classes = self._classes_of_model()
            weights = Weights("", "", "those of SOURCE")
            sizes, count = [], 0
        else:
            self.classes = self.source.classes
            weights = find_weights(args.weights, machine.device)
            sizes, count = self.source.sizes, len(self.source.files)
        self.listed = work / "data/target.json"  # the target's images, where some are left out
        test_file = work / "data/test.json"
        test_classes = args.classes  # the same ones of the test labels
        self.test = None
        if args.test:
            self.test = read_labelled(args.test, "test", "--test", test_file, test_classes, self.classes)
        self.labelled = None
        if args.target_labels:
            file = work / "data/target_labelled.json"
            self.labelled = read_labelled(
                args.target_labels, "train", "--target-labels", file, test_classes, self.classes
            )
        if args.labels_from and not os.path.isfile(args.labels_from):
            raise DataError(f"--labels-from {args.labels_from} {absence(args.labels_from)}.")
        self.plan = make_plan(machine, weights, sizes, self.target.sizes, count, args.steps, self.given)
        if self.given:
            self.plan = self.plan.of_model(self.source_cfg)
        self.stages = (ADAPT,) if self.given else (SOURCE, ADAPT)
        final = [str(work / stage / "model_final.pth") for stage in (SOURCE, ADAPT)]
        self.files = {stage: work / f"{stage}.yaml" for stage in (SOURCE, ADAPT)}
        self.after = (str(self.files[ADAPT]), final[1])
        self.before = (
            (self.source.config_file, self.source.weights) if self.given else (str(self.files[SOURCE]), final[0])
        )

    def _classes_of_model(self):
        """Names of a given model's classes: those of its source set, or of its checkpoint where that is not used.

        Raises:
            DataError: where neither tells them.
        """
        train = self.source_cfg.DATASETS.TRAIN
        if not self.source.source_free:
            return [name for _, name in categories(train[0])]
        names = checkpoint_class_names(self.source.weights) or list(self.source_cfg.DATASETS.CLASS_NAMES)
        names = names or [name for _, name in (categories(train[0]) if train else ())]
        if not names:
            raise DataError(
                f"{self.source.weights} does not name its classes: list them in DATASETS.CLASS_NAMES of its config "
                "(--config-file)."
            )
        return names

    def identity(self):
        """What OUT was made from; see :class:`State`."""
        args = self.args
        return {
            "--classes": " ".join(args.classes or ()),
            "SOURCE": self.source.identity(),
            "TARGET": self.target.identity(),
            "--test": self.test.identity() if self.test else "",
            "--target-labels": self.labelled.identity() if self.labelled else "",
            "--labels-from": os.path.abspath(args.labels_from) if args.labels_from else "",
            "--steps": str(args.steps or ""),
            "--weights": args.weights or "",
            "KEY VALUE": shlex.join(args.opts),
        }

    def write_data(self):
        """The labels and frames that are not used as they lie."""
        for images in (self.source, self.test, self.labelled):
            getattr(images, "write", lambda: None)()

    def continue_without_left_out(self):
        """Leave out the target images that the check of an earlier call left out."""
        if self.listed.is_file():
            self.target = self.target.listed(self.listed)

    def write_configs(self, keep):
        """Write the config of each training. With ``keep``, existing files stay: a user may have changed them."""
        sets = {"classes": len(self.classes), "target": self.target.entry()}
        sets["source"] = None if self.given else self.source.entry()
        sets["test"] = self.test.entry() if self.test else None
        sets["target_labelled"] = self.labelled.entry() if self.labelled else None
        sets["labeller"] = os.path.abspath(self.args.labels_from) if self.args.labels_from else ""
        if getattr(self.source, "source_free", False):
            sets["class_names"] = self.classes
        base = {"base": self.source.config_file, "student": student_architecture(self.source_cfg)} if self.given else {}
        for stage in self.stages:
            weights = self.plan.weights.file if stage == SOURCE else self.before[1]
            file = self.files[stage]
            if not (keep and file.is_file()):
                config = training_config(stage, self.plan, sets, self.work / stage, weights, self.args.opts, **base)
                write_config(config, stage, file)

    def check(self):
        """Check all images and labels. Unusable images and test images are left out of the target, with a warning.

        Raises:
            DataError: where a data set would stop a training or spoil its numbers; the problems are printed.
        """
        self.listed.unlink(missing_ok=True)
        reports, problems = self._audit()
        left_out, lines = images_to_leave_out(reports, len(self.target.files))
        if left_out:
            self.target = self.target.without(left_out, self.listed)
            self.write_configs(keep=False)
            reports, problems = self._audit()
            for report in reports:
                if report.role == "TARGET":  # the lines say more
                    report.notes = [note for note in report.notes if UNLISTED not in note]
        print(format_reports(reports))
        for line in lines:
            print(printable(line))
        for note in [*getattr(self.source, "notes", ()), *(self.test.notes if self.test else ())]:
            print(printable(f"{'':9s}note: {note}"))
        problems += [p for r in reports for p in r.problems]
        if problems:
            for problem in problems[:SHOWN]:
                print(printable(f"problem: {problem}"))
            raise DataError(
                f"problems in the images and labels: {len(problems)}. Correct or remove what is listed above."
            )

    def _audit(self):
        return check_config_datasets(get_mic_cfg(self.files[ADAPT]))

    def minutes(self):
        """Expected minutes of trainings and evaluations on this machine, from a few steps on noise of the same size."""
        cfg = get_mic_cfg(self.files[ADAPT], ["MODEL.WEIGHTS", ""])
        batches, _ = make_batches(cfg, 1, synthetic=True)
        names = ("teacher", "mic") if self.given else ("plain", "teacher", "mic")
        variants = {name: make_variant(cfg, name, batches).run for name in names}
        seconds = {name: min(s) for name, s in alternate(variants, repeats=2, warmup=1).items()}
        steps = self.plan.steps
        images = len(self.test.files) if self.test else 0
        an_image = seconds["teacher"] / cfg.SOLVER.IMS_PER_BATCH_TARGET
        evaluations = 2 + (3 if cfg.TEST.EVAL_PERIOD else 0)
        judged, keys = 0, cfg.TEST.LABEL_FREE
        if keys.ENABLED:  # the start, the checkpoints and the end, each image twice
            judged = 2 * min(keys.MAX_IMAGES, len(self.target.files)) * (2 + (2 if keys.PERIOD else 0))
        # a plain step is timed with source and target images together
        total = steps[0] * seconds.get("plain", 0.0) * 0.6 + steps[1] * seconds["mic"]
        return (total + an_image * (images * evaluations + judged + len(self.target.files))) / 60

    def tell(self, minutes):
        """Print the plan."""
        plan, target, test = self.plan, self.target, self.test
        cfg = get_mic_cfg(self.files[ADAPT])  # KEY VALUE pairs may have changed what was planned
        if self.given:
            source = f"the model {self.source.weights}" + ", without its images" * self.source.source_free
        else:
            source = f"{len(self.source.files)} images, {self.source.num_boxes} boxes ({self.source.kind})"
        steps = f"{plan.steps[0]} on the source, then " if plan.steps[0] else ""
        lines = {
            "source": source,
            "target": f"{len(target.files)} images ({target.what}"
            + (f"; {target.left_out} left out)" if target.left_out else ")"),
            "test": f"{len(test.files)} images, {test.num_boxes} boxes ({test.kind})"
            if test
            else "none: no AP is computed",
            "labels": f"{len(self.labelled.files)} images of the target" if self.labelled else "",
            "boxes of": self.args.labels_from or "",
            "classes": ", ".join(self.classes),
            "weights": plan.weights.told,
            "images": f"short side {short_side(cfg)} pixels; images per step: {images_per_step(cfg)}",
            "steps": f"{steps}{plan.steps[1]} of adaptation",
            "device": (plan.machine.name if cfg.MODEL.DEVICE == plan.machine.device else cfg.MODEL.DEVICE)
            + (f", {cfg.SOLVER.AMP.DTYPE}" if cfg.SOLVER.AMP.ENABLED else ""),
            "expected": f"about {max(1, round(minutes))} minutes",
        }
        print("\nThe plan")
        for name, text in ((name, text) for name, text in lines.items() if text):
            print(textwrap.fill(printable(f"  {name:10s}{text}"), 110, subsequent_indent=" " * 12))

    def train(self, stage):
        """Run one training to its end. It resumes where an earlier call stopped."""
        gpus = ["--num-gpus", self.plan.machine.gpus] if self.plan.machine.gpus > 1 else []
        folder, steps = self.work / stage, get_mic_cfg(self.files[stage]).SOLVER.MAX_ITER
        print("\n" + printable(f"{TITLES[stage]} (log: {folder / 'log.txt'})"), flush=True)
        with Progress(folder / "metrics.json", steps) as progress:
            call = ["--config-file", self.files[stage], "--resume", *gpus]
            run_program("train", *call, log=folder / "console.txt", tick=progress.update)


def images_per_step(cfg):
    """The numbers of images of each kind, as text."""
    solver, sets = cfg.SOLVER, cfg.DATASETS
    parts = [f"{solver.IMS_PER_BATCH} of the source"] * bool(sets.TRAIN)
    parts += [f"{solver.IMS_PER_BATCH_TARGET} of the target"]
    parts += [f"{solver.IMS_PER_BATCH_TARGET_LABELLED} of the labelled target"] * bool(sets.TARGET_LABELLED)
    return ", ".join(parts)


def short_side(cfg):
    """The short side of the images in training, as text: "360", or "320 to 480" where a config has several."""
    least, most = min(cfg.INPUT.MIN_SIZE_TRAIN), max(cfg.INPUT.MIN_SIZE_TRAIN)
    return f"{least}" if least == most else f"{least} to {most}"
