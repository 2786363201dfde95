"""What a training step needs before anything is trained: memory by part, operations, time."""
