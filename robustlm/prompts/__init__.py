"""Prompts: templates that render samples, and their encoding as tokens."""
