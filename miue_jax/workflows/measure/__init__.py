"""Measures the information between features of clean and of protected images."""
