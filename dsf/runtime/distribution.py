"""Name of this distribution on the package index, and its version.

It is imported as ``dsf``, and so is its command; on the index that name belongs to another project.
"""

NAME = "dsf-toolkit"
VERSION = "0.1.0"
