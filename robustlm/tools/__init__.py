"""The functions behind the commands `robustlm noise`, `pairs`, `paraphrase` and `init`."""
