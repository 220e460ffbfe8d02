"""Train or evaluate the model of a LazyConfig (a Python file) with Detectron2's own trainer.

The file defines model, dataloader (train, and test with evaluator), optimizer, lr_multiplier and train, like the files
of Detectron2's model zoo. It is Python: it can import your own code, and you must not run a file that you do not trust.
Clean stops, exact resume and the checks of train_net.py belong to MICTrainer. This command does not have them.

Examples:
    {program} --config-file configs/lazy/minicity_mic.py train.max_iter=100
    {program} --config-file configs/lazy/minicity_mic.py --eval-only \\
        train.init_checkpoint=output/lazy/minicity_mic/model_final.pth
"""

from ...utils.arguments import add_launch_arguments, add_opts_argument


def add(parser):
    add_opts_argument(add_launch_arguments(parser))
