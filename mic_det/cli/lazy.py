"""Train or evaluate the model of a LazyConfig (a Python file) with Detectron2's own trainer."""

import os

from detectron2.config import LazyConfig, instantiate
from detectron2.engine import (
    AMPTrainer,
    SimpleTrainer,
    create_ddp_model,
    default_setup,
    default_writers,
    hooks,
    launch,
)
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm

from ..checkpoint import MICCheckpointer
from ..engine.launch import finish
from ..errors import ConfigError
from ..modeling import MIC


def read_config(args):
    if not os.path.isfile(args.config_file):
        raise ConfigError(f"--config-file {args.config_file}: there is no such file.")
    cfg = LazyConfig.load(args.config_file)
    try:
        return LazyConfig.apply_overrides(cfg, args.opts)
    except Exception as e:  # Hydra has no exception class for it
        raise ConfigError(
            f"{' '.join(args.opts)}: {' '.join(str(e).split())}. Write KEY=VALUE, as in train.max_iter=100."
        ) from e


def evaluate(cfg, model):
    if "test" not in cfg.dataloader:
        return {}
    return inference_on_dataset(model, instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator))


def main(args):
    """Run in one or several processes, by Detectron2's own launcher."""
    launch(run, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, (args,))


def run(args):
    result = train(args)
    if comm.get_world_size() > 1:
        finish()
    return result


def train(args):
    cfg = read_config(args)
    default_setup(cfg, args)
    keys = cfg.train
    model = instantiate(cfg.model).to(keys.device)
    if args.eval_only:
        MICCheckpointer(model, complete=True).load(keys.init_checkpoint)
        return evaluate(cfg, model)
    cfg.optimizer.params.model = model
    optimizer, loader = instantiate(cfg.optimizer), instantiate(cfg.dataloader.train)
    distributed = create_ddp_model(model, **keys.ddp)
    trainer = (AMPTrainer if keys.amp.enabled else SimpleTrainer)(distributed, loader, optimizer)
    checkpointer = MICCheckpointer(model, keys.output_dir, trainer=trainer)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **keys.checkpointer) if comm.is_main_process() else None,
            hooks.EvalHook(keys.eval_period, lambda: evaluate(cfg, model)),
            hooks.PeriodicWriter(default_writers(keys.output_dir, keys.max_iter), keys.log_period)
            if comm.is_main_process()
            else None,
        ]
    )
    resumed = args.resume and checkpointer.has_checkpoint()
    checkpointer.resume_or_load(keys.init_checkpoint, resume=args.resume)
    if isinstance(model, MIC) and keys.init_checkpoint and not resumed:
        model.restart()  # the teacher's average begins here
    return trainer.train(trainer.iter + 1 if resumed else 0, keys.max_iter)
