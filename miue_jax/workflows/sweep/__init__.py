"""Sweeps over generators, defenses, victims and seeds, cell by cell."""
