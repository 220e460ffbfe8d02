"""The tests marked ``gpu`` need CUDA. A rehearsal of tools/gpu_check.py runs them on the CPU instead."""

import os

import pytest
import torch

DEVICE = os.environ.get("MIC_DET_GPU_TESTS_ON", "cuda")


@pytest.fixture
def device():
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    return DEVICE
