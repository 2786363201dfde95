"""Studies: many runs of `fit` and `test` by one file. Their plan, what is stored of them, and how they are run."""
