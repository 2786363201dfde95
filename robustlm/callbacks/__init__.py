"""What happens around a run: predictions, hidden states, adapters, checkpoints, signals."""
