"""Two commands for a machine with a CUDA GPU: is it right there, and how fast is it (`docs/performance.md`)."""
