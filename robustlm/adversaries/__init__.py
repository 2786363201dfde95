"""Strategies that perturb input embeddings, one a file."""
