"""Fixtures that tests anywhere use."""

import os
import tempfile
from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage

import helpers.data
import helpers.faults
import helpers.resume

ROOT = Path(__file__).resolve().parents[1]
HYPOTHESIS = tempfile.TemporaryDirectory(prefix="hypothesis")  # in place of .hypothesis in the working directory
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", HYPOTHESIS.name)


@pytest.fixture(scope="session", autouse=True)
def outside_the_checkout(tmp_path_factory):
    """Tests run in an empty folder, where ``./output`` and the like do no harm; nothing new may lie in the checkout."""
    before, start = set(os.listdir(ROOT)), os.getcwd()
    os.chdir(tmp_path_factory.mktemp("working_directory"))
    yield
    os.chdir(start)
    new = set(os.listdir(ROOT)) - before - {".pytest_cache", "__pycache__"}  # pytest's and Python's own
    assert not new, f"written into the checkout: {sorted(new)}"


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def storage():
    with EventStorage() as events:
        yield events


@pytest.fixture(scope="module", autouse=True)
def catalogs():
    """What one module registers must not reach the next, whatever their order."""
    with helpers.data.forget_registered_sets(), helpers.data.keep_loggers():
        yield


@pytest.fixture
def clean_catalogs():
    """For tests that register other sets by the same names as the tests beside them."""
    with helpers.data.forget_registered_sets():
        yield


@pytest.fixture(autouse=True)
def loggers():
    with helpers.data.keep_loggers():
        yield


@pytest.fixture(scope="session")
def scene_template(tmp_path_factory):
    root = tmp_path_factory.mktemp("scene")
    helpers.faults.write_scene(root)
    return root


@pytest.fixture
def scene(scene_template, tmp_path):
    """A folder with the two small data sets that the fault tests damage."""
    return helpers.faults.copy_scene(scene_template, tmp_path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with two domains of images of mixed shapes, whose sets a module's tests register together."""
    root = tmp_path_factory.mktemp("data")
    helpers.resume.write_mixed_domains(root)
    with helpers.data.forget_registered_sets():
        yield root
