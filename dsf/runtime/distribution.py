"""What this package is called where packages are installed from, and its release.

It is imported as ``dsf``, and so is its command; among distributions that name is somebody else's.
"""

NAME = "dsf-toolkit"
VERSION = "0.1.0"
