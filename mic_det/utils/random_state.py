"""Get and set the state of all random generators of a process."""

import contextlib
import random

import numpy as np
import torch


def get_random_state():
    """Get the state of the generators of Python, NumPy and torch, including all GPUs.

    Returns:
        dict: it has only tensors and plain values, so that a checkpoint with it can be loaded with ``weights_only``.
    """
    name, keys, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_random_state(state):
    """Set the state that :func:`get_random_state` returned. States of GPUs that this process lacks are ignored."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for device, of_device in zip(range(torch.cuda.device_count()), state["cuda"]):
            torch.cuda.set_rng_state(of_device, device)


@contextlib.contextmanager
def seeded(*key):
    """A context whose random numbers on the CPU depend only on ``key`` (integers). Its end restores the states."""
    # the length is part of the seed, as SeedSequence gives equal numbers for (1,) and (1, 0)
    numbers = np.random.SeedSequence((len(key), *key)).generate_state(4)
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(int(numbers[0]))
            np.random.seed(numbers[1:3])
            torch.default_generator.manual_seed(int(numbers[3]))  # torch.manual_seed would reach GPUs too
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
