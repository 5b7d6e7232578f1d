"""Protects a folder of pictures as people have them, see `run.protect_folder`."""
