"""LightningDataModules: which rows, which views, which loaders."""
