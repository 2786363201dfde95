"""Lightning callbacks for predictions, hidden states, adapters, checkpoints and signals."""
