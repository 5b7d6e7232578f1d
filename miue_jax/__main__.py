"""Runs the command ``miue``: ``python -m miue_jax``."""

import sys

from miue_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
