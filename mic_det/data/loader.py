"""Batches of images: those of a training, which can resume from any batch, and those of an evaluation."""

import contextlib
import os
import signal
import threading
from typing import Callable, Optional

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.build import trivial_batch_collator
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from torch import Generator
from torch.utils.data import DataLoader

from ..errors import DataError
from ..utils.random_state import seeded
from .crops import RARE_CLASS_SAMPLER
from .mapper import DomainMapper, OfDomain
from .rare_classes import DrawnForClasses, RareClassSampler, rare_class_sampler
from .samplers import AspectRatios, BatchPlan, SeededItems
from .target_labels import LABELLED_TARGET, labelled_target_images, target_images


class TwoDomainLoader:
    """Endless batches: one of each domain (source, target, labelled target), one after the other.

    The batches depend on the seed alone. Its state is the seed and the number of batches that were handed out;
    those that worker processes have prepared in advance do not count.
    """

    def __init__(self, domains, seed, num_workers=0, timeout=0):
        """
        Args:
            domains (list[dict]): for each its ``name``, ``dicts`` (Detectron2's dataset dicts), ``mapper``, ``sampler``
                (a function that makes one), ``batch_size`` (images of all processes) and ``grouping`` (bool: whether
                wide and tall images are kept apart).
            seed (int): the same in all processes.
            num_workers (int): worker processes for each domain; 0 = images are read when they are needed.
            timeout (float): see ``DATALOADER.WORKER_TIMEOUT``.
        """
        self.domains, self.seed, self.num_workers, self.timeout = domains, int(seed), num_workers, timeout
        self.start = {d["name"]: 0 for d in domains}  # batches of earlier lives of the run
        self.batches = 0  # handed out in this one

    def __iter__(self):
        self.batches = 0
        loaders = [self._loader(i, d) for i, d in enumerate(self.domains)]
        for parts in zip(*loaders):
            self.batches += 1
            yield [x for part in parts for x in part]

    def _loader(self, number, domain):
        with seeded(self.seed, number):  # Detectron2's samplers draw their seeds when they are made
            sampler = domain["sampler"]()
        seed, rank, world_size = (self.seed, number), comm.get_rank(), comm.get_world_size()
        plan = BatchPlan(
            sampler,
            domain["batch_size"] // world_size,
            AspectRatios(domain["dicts"]) if domain["grouping"] else None,
            self.start[domain["name"]],
        )
        dataset = DatasetFromList(domain["dicts"], copy=False)
        if isinstance(sampler, RareClassSampler):
            dataset = DrawnForClasses(dataset)
        items = SeededItems(dataset, domain["mapper"], seed, rank, world_size)
        return WatchedLoader(
            items,
            self.num_workers,
            self.timeout,
            batch_sampler=plan,
            generator=Generator(),  # else each start of the workers draws from the training's random numbers
        )

    def state_dict(self):
        sizes = {d["name"]: d["batch_size"] for d in self.domains}
        taken = {name: start + self.batches for name, start in self.start.items()}
        return {"seed": self.seed, "batches": taken, "batch_size": sizes}

    def load_state_dict(self, state):
        """Continue after the batches that the state counts; with another batch size, after as many images."""
        self.seed, self.batches = int(state["seed"]), 0
        for domain in self.domains:
            name = domain["name"]
            taken = state["batches"].get(name, 0) * state["batch_size"].get(name, 0)
            self.start[name] = taken // domain["batch_size"]


def build_mic_train_loader(cfg: CfgNode, mapper: Optional[Callable[[dict], dict]] = None) -> TwoDomainLoader:
    """Training batches of ``DATASETS.TRAIN``, ``TARGET`` and ``TARGET_LABELLED``, by Detectron2's samplers.

    Args:
        cfg (CfgNode): a config with mic_det's keys.
        mapper (callable): for both domains, in place of :class:`DomainMapper`: a function from a dataset dict to what
            the model takes, such as Detectron2's ``DatasetMapper``. Both dicts have ``"domain"``. Of an unlabelled
            target image it is given nothing but ``file_name``, ``image_id`` and the labeller's boxes.

    Returns:
        TwoDomainLoader: an iterable of list[dict]. Each batch has ``SOLVER.IMS_PER_BATCH`` source dicts, then
        ``SOLVER.IMS_PER_BATCH_TARGET`` target dicts, then ``SOLVER.IMS_PER_BATCH_TARGET_LABELLED`` labelled target
        dicts, divided by the number of processes; each dict has ``"domain"``. A domain without a set has none.
    """
    seed = comm.shared_random_seed()
    mapper_of = lambda x: DomainMapper(cfg, True, x) if mapper is None else OfDomain(mapper, x)  # noqa: E731
    domains, solver, grouping = [], cfg.SOLVER, cfg.DATALOADER.ASPECT_RATIO_GROUPING
    if cfg.DATASETS.TRAIN:
        domains.append(_source(cfg, mapper_of("source")))
    labelled = [x for dicts in labelled_target_images(cfg).values() for x in dicts]
    if cfg.DATASETS.TARGET:
        unlabelled, _ = target_images(cfg, labelled)
        domains.append(_domain("target", unlabelled, mapper_of("target"), solver.IMS_PER_BATCH_TARGET, grouping))
    if labelled:
        size = solver.IMS_PER_BATCH_TARGET_LABELLED
        domains.append(_domain(LABELLED_TARGET, labelled, mapper_of(LABELLED_TARGET), size, grouping))
    return TwoDomainLoader(domains, seed, cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.WORKER_TIMEOUT)


def _source(cfg, source_mapper):
    """The source domain, with the sampler that the config names."""
    from_config = build_detection_train_loader.from_config  # the sets and the sampler that the config names
    if cfg.DATALOADER.SAMPLER_TRAIN == RARE_CLASS_SAMPLER:  # which Detectron2 does not know
        labelled = from_config(cfg, mapper=source_mapper, sampler=())["dataset"]
        sampler = rare_class_sampler(cfg, labelled)
    else:
        labelled = from_config(cfg, mapper=source_mapper)["dataset"]
        sampler = lambda: from_config(cfg, mapper=source_mapper, dataset=labelled)["sampler"]  # noqa: E731
    return _domain(
        "source", labelled, source_mapper, cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.ASPECT_RATIO_GROUPING, sampler
    )


def build_test_loader(cfg, dataset):
    """Batches of one image, as they are, of a registered set (its name) or of Detectron2's dataset dicts."""
    named = [cfg] if isinstance(dataset, str) else []
    plain = build_detection_test_loader(*named, dataset, mapper=DomainMapper(cfg, False))
    workers, timeout = cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.WORKER_TIMEOUT
    return WatchedLoader(plain.dataset, workers, timeout, batch_size=1, sampler=plain.sampler)


class WatchedLoader(DataLoader):
    """torch's loader of lists, whose workers may die or hang: both end in one line that says what to do."""

    def __init__(self, dataset, num_workers, timeout, **kwargs):
        """
        Args:
            num_workers (int): 0 = images are read in this process, and ``timeout`` means nothing.
            timeout (float): see ``DATALOADER.WORKER_TIMEOUT``.
            kwargs: of torch's DataLoader.
        """
        super().__init__(
            dataset, num_workers=num_workers, timeout=timeout if num_workers else 0, collate_fn=trivial_batch_collator,
            worker_init_fn=leave_signals_to_the_trainer, **kwargs,
        )  # fmt: skip

    def __iter__(self):
        return _Watched(super().__iter__(), self.num_workers, self.timeout)


class _Watched:
    """An iterator of a :class:`WatchedLoader`; its workers are started when it is made."""

    def __init__(self, batches, num_workers, timeout):
        self.batches, self.num_workers, self.timeout = batches, num_workers, timeout

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return next(self.batches)
        except RuntimeError as e:
            problem = self._problem(str(e))
            if not problem:
                raise
            raise DataError(
                f"{problem}. Either shared memory is short ({_shared_memory()}; containers get more by --shm-size), "
                "memory is, or the disk does not respond. DATALOADER.NUM_WORKERS 0 reads images without workers."
            ) from e

    def _problem(self, text):
        """What torch's message says of the workers; "" where it is of something else."""
        if "DataLoader timed out" in text:
            return (
                f"the loader's {self.num_workers} worker processes sent no images for {self.timeout:g} seconds "
                "(DATALOADER.WORKER_TIMEOUT)"
            )
        if text.startswith("DataLoader worker (pid"):
            return " ".join(text.split(". ")[0].split()).rstrip(".").replace("DataLoader worker", "a worker process")
        return ""


def _shared_memory():
    with contextlib.suppress(OSError, AttributeError):  # not on macOS and Windows
        found = os.statvfs("/dev/shm")
        free, total = (n * found.f_frsize / 2**20 for n in (found.f_bavail, found.f_blocks))
        return f"/dev/shm has {free:.0f} of {total:.0f} MiB free"
    return "/dev/shm"


def build_two_domain_loader(
    *,
    source,
    target=(),
    mapper,
    batch_size=2,
    target_batch_size=2,
    aspect_ratio_grouping=True,
    num_workers=0,
    worker_timeout=300,
    seed=None,
):
    """:func:`build_mic_train_loader` without a config, for LazyConfigs and own programs.

    Args:
        source, target (sequence of str): names of registered sets; images of the source without a box are left out.
        mapper (callable): for both domains, see :func:`build_mic_train_loader`.
        batch_size, target_batch_size (int): images of all processes.
        num_workers (int), worker_timeout (float): see ``DATALOADER.NUM_WORKERS`` and ``WORKER_TIMEOUT``.
        seed (int): None = drawn.
    """
    labelled = get_detection_dataset_dicts(list(source))
    sets = {"source": (labelled, batch_size)}
    if target:
        unlabelled = get_detection_dataset_dicts(list(target), filter_empty=False, check_consistency=False)
        sets["target"] = (unlabelled, target_batch_size)
    domains = [_domain(k, x, OfDomain(mapper, k), size, aspect_ratio_grouping) for k, (x, size) in sets.items()]
    return TwoDomainLoader(domains, comm.shared_random_seed() if seed is None else seed, num_workers, worker_timeout)


def _domain(name, dicts, mapper, batch_size, grouping, sampler=None):
    return {
        "name": name,
        "dicts": dicts,
        "mapper": mapper,
        "sampler": sampler or (lambda: TrainingSampler(len(dicts))),
        "batch_size": batch_size,
        "grouping": grouping,
    }


def leave_signals_to_the_trainer(worker_id):
    """For worker processes: Ctrl-C and SIGTERM reach a whole job, and the trainer needs them until its step's end.

    The trainer itself ends them by SIGTERM, which they obey.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows: there SIGTERM ends them
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, args=(os.getppid(),), daemon=True).start()


def _obey_parent(parent):
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
