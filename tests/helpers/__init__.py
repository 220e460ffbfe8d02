"""What tests share: models, data, runs and ways to start programs. Fixtures are in conftest.py."""
