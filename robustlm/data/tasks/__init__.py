"""Tasks: one kind of answer a file. `TASKS` maps names to tasks."""
