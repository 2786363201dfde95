"""Rows in, rows out: the work behind `robustlm noise`, `pairs`, `paraphrase` and `init`."""
