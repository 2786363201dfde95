"""What a checkpoint holds, and what it may decide."""
