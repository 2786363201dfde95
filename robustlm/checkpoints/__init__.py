"""Reading of checkpoints, and checks of what they may decide."""
