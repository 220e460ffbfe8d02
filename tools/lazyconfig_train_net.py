"""Train or evaluate what a LazyConfig (a Python file) describes, by Detectron2's own trainer.

The file defines model, dataloader (train, and test with evaluator), optimizer, lr_multiplier and train, as those of
Detectron2's model zoo do. It is Python, so it imports code of your own itself; run none that you do not trust. Clean
stops, exact resume and the checks of train_net.py are MICTrainer's, and not here.

Examples:
    python tools/lazyconfig_train_net.py --config-file configs/lazy/minicity_mic.py train.max_iter=100
    python tools/lazyconfig_train_net.py --config-file configs/lazy/minicity_mic.py --eval-only \
        train.init_checkpoint=output/lazy/minicity_mic/model_final.pth
"""

import os
import sys

from detectron2.config import LazyConfig, instantiate
from detectron2.engine import (
    AMPTrainer,
    SimpleTrainer,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
    hooks,
    launch,
)
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm

from mic_det import MIC, MICCheckpointer
from mic_det.engine.launch import advice
from mic_det.errors import ConfigError
from mic_det.utils.programs import start_program


def read_config(args):
    if not os.path.isfile(args.config_file):
        raise ConfigError(f"--config-file {args.config_file}: there is no such file.")
    cfg = LazyConfig.load(args.config_file)
    try:
        return LazyConfig.apply_overrides(cfg, args.opts)
    except Exception as e:  # of Hydra, which has no kind of its own for it
        raise ConfigError(f"{' '.join(args.opts)}: {' '.join(str(e).split())}. Write key.of.the.file=value.") from e


def evaluate(cfg, model):
    if "test" not in cfg.dataloader:
        return {}
    return inference_on_dataset(model, instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator))


def main(args):
    cfg = read_config(args)
    default_setup(cfg, args)
    train = cfg.train
    model = instantiate(cfg.model).to(train.device)
    if args.eval_only:
        MICCheckpointer(model, complete=True).load(train.init_checkpoint)
        return evaluate(cfg, model)
    cfg.optimizer.params.model = model
    optimizer, loader = instantiate(cfg.optimizer), instantiate(cfg.dataloader.train)
    distributed = create_ddp_model(model, **train.ddp)
    trainer = (AMPTrainer if train.amp.enabled else SimpleTrainer)(distributed, loader, optimizer)
    checkpointer = MICCheckpointer(model, train.output_dir, trainer=trainer)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **train.checkpointer) if comm.is_main_process() else None,
            hooks.EvalHook(train.eval_period, lambda: evaluate(cfg, model)),
            hooks.PeriodicWriter(default_writers(train.output_dir, train.max_iter), train.log_period)
            if comm.is_main_process()
            else None,
        ]
    )
    resumed = args.resume and checkpointer.has_checkpoint()
    checkpointer.resume_or_load(train.init_checkpoint, resume=args.resume)
    if isinstance(model, MIC) and train.init_checkpoint and not resumed:
        model.restart()  # the teacher's average begins here
    return trainer.train(trainer.iter + 1 if resumed else 0, train.max_iter)


if __name__ == "__main__":
    start_program()
    arguments = default_argument_parser(epilog=__doc__).parse_args()
    try:
        launch(
            main, arguments.num_gpus, arguments.num_machines, arguments.machine_rank, arguments.dist_url, (arguments,)
        )
    except Exception as e:
        if not (message := advice(e)):
            raise
        sys.exit(f"error: {message}")
