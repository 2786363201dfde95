"""robustlm: language models that do the same thing however they are asked."""

__version__ = "0.1.0"
