"""Scores and the prediction table they come from."""
