"""What is tested and measured on a GPU, in one call of a few minutes (``mic-det gpu-check``)."""
