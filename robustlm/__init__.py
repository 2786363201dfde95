"""robustlm: language models that do the same thing however they are asked."""
