"""From rows to samples: formats, tasks, templates, instructions, noise and its distortion."""
