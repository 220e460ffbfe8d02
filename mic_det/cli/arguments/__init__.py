"""The arguments of each command, one file each: ``add(parser)``, and ``check(parser, args)`` where that is needed.

Nothing here imports PyTorch. The text at the head of each file is the command's help; ``{program}`` is the call.
"""
