"""Sources of samples: files, hub data sets, the built-in corpus."""
