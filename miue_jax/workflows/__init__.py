"""What the command ``miue`` does, as functions: typed settings in, results out."""
