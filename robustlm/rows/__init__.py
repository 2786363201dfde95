"""Rows of files and of the hub, as they are read and written."""
