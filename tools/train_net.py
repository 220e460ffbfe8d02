"""Train or evaluate a detector: MIC, source-only or oracle, as the config says.

Examples:
    python tools/train_net.py --config-file configs/minicity/mic.yaml
    python tools/train_net.py --config-file configs/minicity/mic.yaml --resume
    python tools/train_net.py --config-file configs/minicity/mic.yaml --eval-only MODEL.WEIGHTS FILE

SIGTERM and Ctrl-C end the step in progress, save a checkpoint and stop; --resume goes on from there as if nothing had
happened. Ctrl-C once more stops at once. Exit codes: 0 finished, 1 an error, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

import contextlib
import errno
import sys

from detectron2.engine import default_argument_parser, launch
from torch.multiprocessing import ProcessExitedException

from mic_det.config import ConfigError
from mic_det.data.catalog import DataError
from mic_det.engine.checkpoint import CheckpointError, MICCheckpointer
from mic_det.engine.setup import setup
from mic_det.engine.signals import STOPPED_CODES, forwarded_to_children
from mic_det.engine.trainer import MICTrainer


def main(args):
    cfg = setup(args)
    if args.eval_only:
        model = MICTrainer.build_model(cfg)
        MICCheckpointer(model, cfg.OUTPUT_DIR, min_matched_keys=cfg.MODEL.BACKBONE.MIN_MATCHED_KEYS).resume_or_load(
            cfg.MODEL.WEIGHTS, resume=args.resume
        )
        return MICTrainer.test(cfg, model)
    trainer = MICTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    args = default_argument_parser(epilog=__doc__).parse_args()
    several = args.num_gpus * args.num_machines > 1
    try:
        with forwarded_to_children() if several else contextlib.nullcontext([]) as signals:
            launch(main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,))
        if signals:
            sys.exit(128 + signals[0])
    except (ConfigError, DataError, CheckpointError) as e:
        sys.exit(f"error: {e}")
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.exit(f"error: {e}: make room, then go on with --resume. Checkpoints are as they were.")
    except ProcessExitedException as e:
        if not signals and e.exit_code not in STOPPED_CODES:
            raise
        sys.exit(128 + signals[0] if signals else e.exit_code)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
