"""Train or evaluate what a LazyConfig (a Python file) describes, by Detectron2's own trainer.

The file defines model, dataloader (train, and test with evaluator), optimizer, lr_multiplier and train, as those of
Detectron2's model zoo do. It is Python, so it imports code of your own itself; run none that you do not trust. Clean
stops, exact resume and the checks of train_net.py are MICTrainer's, and not here.

Examples:
    {program} --config-file configs/lazy/minicity_mic.py train.max_iter=100
    {program} --config-file configs/lazy/minicity_mic.py --eval-only \\
        train.init_checkpoint=output/lazy/minicity_mic/model_final.pth
"""

from ...utils.arguments import add_launch_arguments, add_opts_argument


def add(parser):
    add_opts_argument(add_launch_arguments(parser))
