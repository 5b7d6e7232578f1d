"""The fault suite, a program of its own: `python -m tests.faults --help`."""
