"""Pictures as people have them: read, found in folders, and written within a budget.

`read` holds apart what a perturbation is laid on and what must stay as it is; `write`
writes a changed picture so that the file, decoded again, keeps the budget; `scan` finds
the pictures of a folder and leaves out nothing that looks like one unsaid.
"""

from miue_jax.pictures.picture import (
    Header,
    Picture,
    check,
    read,
    read_header,
    read_small,
    upright,
)
from miue_jax.pictures.scan import Entry, Scan, Unreadable, scan
from miue_jax.pictures.write import Audit, write

__all__ = [
    "Audit",
    "Entry",
    "Header",
    "Picture",
    "Scan",
    "Unreadable",
    "check",
    "read",
    "read_header",
    "read_small",
    "scan",
    "upright",
    "write",
]
