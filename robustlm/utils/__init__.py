"""Helpers for every subpackage: files, randomness, words, imports. They import no other subpackage."""
