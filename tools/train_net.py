"""Train or evaluate a detector: MIC, source-only or oracle, as the config says.

Examples:
    python tools/train_net.py --config-file configs/minicity/mic.yaml
    python tools/train_net.py --config-file configs/minicity/mic.yaml --resume
    python tools/train_net.py --config-file configs/minicity/mic.yaml --eval-only MODEL.WEIGHTS FILE
"""

import sys

from detectron2.engine import default_argument_parser, launch

from mic_det.config import ConfigError
from mic_det.data.catalog import DataError
from mic_det.engine.checkpoint import CheckpointError, MICCheckpointer
from mic_det.engine.setup import add_trust_argument, setup
from mic_det.engine.trainer import MICTrainer


def main(args):
    cfg = setup(args)
    if args.eval_only:
        model = MICTrainer.build_model(cfg)
        checkpointer = MICCheckpointer.from_config(
            cfg, model, cfg.OUTPUT_DIR, complete=True, trust=args.trust_checkpoint
        )
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        return MICTrainer.test(cfg, model)
    trainer = MICTrainer(cfg, trust_checkpoint=args.trust_checkpoint)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    args = add_trust_argument(default_argument_parser(epilog=__doc__)).parse_args()
    try:
        launch(main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,))
    except (ConfigError, DataError, CheckpointError) as e:
        sys.exit(f"error: {e}")
