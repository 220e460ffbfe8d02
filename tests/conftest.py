"""Fixtures that tests anywhere use."""

import pytest
import torch
from detectron2.utils.events import EventStorage

import helpers.data
import helpers.faults
import helpers.resume


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def storage():
    with EventStorage() as events:
        yield events


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
