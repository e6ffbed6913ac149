"""Reads what a torch archive says it holds, without running any of it.

This folder needs the standard library alone, so that the child process that does the reading
starts at once, holds no torch and never unpickles.
"""
