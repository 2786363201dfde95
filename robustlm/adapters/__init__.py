"""A trained adapter on its way home: prompt settings, model card, merging, the hub."""
