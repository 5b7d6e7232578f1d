"""Training over a device mesh: sampling, loops, classifiers, checkpoints, run files."""
