"""The arguments of each command, one file each: ``add(parser)``, and ``check(parser, args)`` where it is needed.

Nothing here imports PyTorch. The docstring of each file is the command's help. ``{program}`` stands for the call.
"""
