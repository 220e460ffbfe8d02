"""Train or evaluate the model of a config: MIC, source-only or oracle.

Examples:
    {program} --config-file minicity/mic.yaml
    {program} --config-file minicity/mic.yaml --resume
    {program} --config-file minicity/mic.yaml --eval-only MODEL.WEIGHTS FILE
    {program} --config-file FILE --num-gpus 4      # 4 processes; on the CPU where there is no GPU
    torchrun --nproc-per-node 4 tools/train_net.py --config-file FILE

On SIGTERM or Ctrl-C the training finishes its step and saves a checkpoint. --resume continues from it exactly. An
evaluation stops at once. A second Ctrl-C stops at once. Exit codes: 0 finished, 1 error, 130 Ctrl-C, 143 SIGTERM.
"""

from ...utils.arguments import add_launch_arguments, add_model_arguments, add_opts_argument


def add(parser):
    add_opts_argument(add_model_arguments(add_launch_arguments(parser)))
