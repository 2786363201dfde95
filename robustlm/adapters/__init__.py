"""Saving and publishing adapters: prompt settings, model card, merging, upload to the hub."""
