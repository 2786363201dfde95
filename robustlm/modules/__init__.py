"""LightningModules: one training objective a file."""
