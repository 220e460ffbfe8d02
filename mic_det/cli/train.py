"""Train or evaluate the model of a config: MIC, source-only or oracle."""

from ..checkpoint.checkpointer import MICCheckpointer
from ..engine.launch import launch
from ..engine.setup import setup
from ..engine.trainer import MICTrainer
from ..errors import ConfigError


def main(args):
    """An error ends the program; see :func:`launch`."""
    launch(train, args)


def train(args):
    cfg = setup(args)
    if args.eval_only:
        model = MICTrainer.build_model(cfg)
        checkpointer = MICCheckpointer.from_config(
            cfg, model, cfg.OUTPUT_DIR, complete=True, trust=args.trust_checkpoint
        )
        if not cfg.MODEL.WEIGHTS and not (args.resume and checkpointer.has_checkpoint()):
            raise ConfigError(
                "MODEL.WEIGHTS is empty: name the checkpoint to evaluate, or add --resume to take the last one of "
                "OUTPUT_DIR."
            )
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        return MICTrainer.test(cfg, model)
    trainer = MICTrainer(cfg, trust_checkpoint=args.trust_checkpoint)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()
