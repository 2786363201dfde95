"""What every room may use: files, randomness, words, imports. It knows no other room."""
