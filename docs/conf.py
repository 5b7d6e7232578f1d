"""Configuration of the documentation site: `make docs` builds it."""

import os
import pathlib
import sys

# Before JAX starts: notebooks simulate several devices on the CPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("NPROC", "16")

sys.path.insert(0, str(pathlib.Path(__file__).parent / "_ext"))

import miue_jax

project = "miue_jax"
author = "The miue_jax authors"
copyright = f"2026, {author}"
version = release = miue_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx-mathjax-offline",
    "sphinxcontrib.bibtex",
    "published",
    "registries",
    "results",
]
exclude_patterns = ["_build", "_ext"]
html_theme = "furo"
html_title = f"miue_jax {version}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]

# A single backtick is code, as in the docstrings of JAX.
default_role = "code"
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Yields", "returns_style")]

nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
