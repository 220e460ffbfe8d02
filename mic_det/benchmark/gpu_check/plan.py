"""The parts of a check, their sizes and their time limits. Nothing here imports PyTorch."""

from dataclasses import dataclass, field, replace

from ...errors import ConfigError


@dataclass(frozen=True)
class Part:
    """``module`` beside this file has ``function(settings, save)``; parts of one stage run at the same time."""

    name: str
    stage: int
    limit: float  # seconds
    module: str
    function: str


# Stages that measure time have one part each. The others share theirs.
PARTS = (
    Part("machine", 1, 45, "machine", "describe"),
    Part("tests", 1, 90, "machine", "run_tests"),
    Part("memory", 1, 90, "steps", "measure_memory"),
    Part("files", 1, 90, "loading", "write_files"),
    Part("steps", 2, 90, "steps", "measure_steps"),
    Part("loader", 3, 40, "loading", "measure_loader"),
    Part("training", 4, 80, "training", "train"),
    Part("compile", 5, 60, "steps", "measure_compile"),
)

PATIENCE = 10  # a rehearsal's limits are so many times longer

# A model with the layers of the real one, for rehearsals.
NARROW = (
    "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.FPN.OUT_CHANNELS", 16,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN", 100, "MODEL.RPN.PRE_NMS_TOPK_TEST", 100, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 50,
    "MODEL.RPN.POST_NMS_TOPK_TEST", 50, "MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32,
    "MODEL.MIC.ALIGNMENT.IMAGE.CHANNELS", 8, "MODEL.MIC.ALIGNMENT.INSTANCE.FC_DIM", 8,
)  # fmt: skip


@dataclass
class Settings:
    """Sizes of all parts; sent to their processes as JSON."""

    device: str = "cuda"
    size: list = field(default_factory=lambda: [800, 1600])  # of the network's images: height and width in pixels
    opts: list = field(default_factory=list)  # KEY VALUE pairs of the measured config
    images: list = field(default_factory=lambda: [1, 4])  # source images of a step, and as many target images
    rounds: list = field(default_factory=lambda: [6, 3])  # that count, for each of ``images``
    more_memory: list = field(default_factory=lambda: ["mic_sequential", "mic_sada"])  # of the first of ``images``
    compiler: str = "inductor"
    file_size: list = field(default_factory=lambda: [1024, 2048])  # of the loader's images, as Cityscapes'
    files: int = 48  # for each format
    workers: list = field(default_factory=lambda: [4, 8, 16])  # for each domain
    loaded_batches: int = 40
    city: list = field(default_factory=lambda: [250, 60])  # training and validation images
    city_size: list = field(default_factory=lambda: [512, 256])  # width and height, as make-minicity has them
    training_seconds: float = 65  # at most for the two trainings with their evaluations
    training_workers: int = 4
    training_opts: list = field(default_factory=list)
    folder: str = ""  # where parts find each other's files
    limit: float = 600  # seconds, after which the part is killed


REHEARSAL = Settings(
    device="cpu", size=[64, 128], opts=list(NARROW), images=[1, 2], rounds=[1, 1], more_memory=[], compiler="eager",
    file_size=[72, 144], files=4, workers=[0, 1], loaded_batches=2, city=[4, 2], city_size=[256, 128],
    training_seconds=0, training_workers=0,
    training_opts=["INPUT.MIN_SIZE_TRAIN", [64], "INPUT.MAX_SIZE_TRAIN", 128, "INPUT.MIN_SIZE_TEST", 64,
                   "INPUT.MAX_SIZE_TEST", 128],
)  # fmt: skip


@dataclass
class Plan:
    """What one call does."""

    seconds: float
    settings: Settings
    parts: list

    @classmethod
    def of(cls, minutes, rehearse, only=None):
        """
        Args:
            minutes (float): for all parts together.
            rehearse (bool): on the CPU, with small sizes.
            only (list[str]): names of parts; None = all.

        Raises:
            ConfigError: where a part is chosen without the one whose files it reads.
        """
        if not minutes > 0:
            raise ConfigError(f"--minutes is {minutes:g}: use a number above 0.")
        chosen = [p for p in PARTS if not only or p.name in only or p.name == "machine"]
        names = {p.name for p in chosen}
        if "files" not in names and names & {"loader", "training"}:
            raise ConfigError("--only: loader and training need the part files, which writes their images.")
        if rehearse:  # nothing is measured, and machines may be slow
            return cls(60 * minutes, REHEARSAL, [replace(p, limit=PATIENCE * p.limit) for p in chosen])
        return cls(60 * minutes, Settings(), chosen)
