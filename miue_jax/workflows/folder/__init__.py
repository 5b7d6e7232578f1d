"""The protection of a folder of pictures, and the report on it."""
