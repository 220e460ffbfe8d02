"""tools/train_net.py in two processes, of which the second one's images, or evaluation, never come to an end.

python hang.py wait|evaluate STEP ...train_net.py's arguments
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from detectron2.utils import comm

import mic_det.engine.launch as launcher
from mic_det.engine.setup import add_model_arguments, setup
from mic_det.engine.trainer import MICTrainer


def main(args):
    trainer = MICTrainer(setup(args))
    trainer.resume_or_load(args.resume)
    what, step = os.environ["HANG"].split()
    if what == "wait":
        source = trainer.data_loader.domains[0]
        source["mapper"] = Hanging(source["mapper"], 2 * int(step), args.config_file)
    else:
        MICTrainer.test = classmethod(lambda cls, *a: hang(args.config_file))
    return trainer.train()


def hang(file):
    Path(f"{file}.{comm.get_rank()}").write_text("hangs", encoding="utf-8")
    time.sleep(1000)


class Hanging:
    def __init__(self, mapper, images, file):
        self.mapper, self.images, self.file = mapper, images, file

    def __call__(self, d):
        self.images -= 1
        if self.images < 0 and comm.get_rank() == 1:
            hang(self.file)
        return self.mapper(d)


if __name__ == "__main__":
    launcher.GRACE = 2000.0  # who does not end by itself fails the test, however busy the machine is
    os.environ["HANG"] = " ".join(sys.argv[1:3])
    launcher.launch(main, add_model_arguments(launcher.argument_parser()).parse_args(sys.argv[3:]))
