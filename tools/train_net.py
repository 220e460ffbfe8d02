"""Train or evaluate a detector: MIC, source-only or oracle, as the config says.

Examples:
    python tools/train_net.py --config-file configs/minicity/mic.yaml
    python tools/train_net.py --config-file configs/minicity/mic.yaml --resume
    python tools/train_net.py --config-file configs/minicity/mic.yaml --eval-only MODEL.WEIGHTS FILE
    python tools/train_net.py --config-file FILE --num-gpus 4       # 4 processes; on the CPU where there is no GPU
    torchrun --nproc-per-node 4 tools/train_net.py --config-file FILE
    # two machines: the first has --machine-rank 0, the second 1
    python tools/train_net.py --config-file FILE --num-gpus 4 --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT

SIGTERM and Ctrl-C end the step in progress, save a checkpoint and stop; --resume goes on from there as if nothing had
happened. An evaluation is left at once, and repeated by --resume. Ctrl-C once more stops at once. Exit codes: 0
finished, 1 an error, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.engine.launch import argument_parser, launch
from mic_det.engine.setup import add_model_arguments, setup
from mic_det.engine.trainer import MICTrainer
from mic_det.errors import ConfigError
from mic_det.utils.programs import start_program


def main(args):
    cfg = setup(args)
    if args.eval_only:
        model = MICTrainer.build_model(cfg)
        checkpointer = MICCheckpointer.from_config(
            cfg, model, cfg.OUTPUT_DIR, complete=True, trust=args.trust_checkpoint
        )
        if not cfg.MODEL.WEIGHTS and not (args.resume and checkpointer.has_checkpoint()):
            raise ConfigError(
                "MODEL.WEIGHTS is empty: name the checkpoint that --eval-only is for, or add --resume to take the last "
                "one of OUTPUT_DIR."
            )
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        return MICTrainer.test(cfg, model)
    trainer = MICTrainer(cfg, trust_checkpoint=args.trust_checkpoint)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    start_program()
    launch(main, add_model_arguments(argument_parser(epilog=__doc__)).parse_args())
