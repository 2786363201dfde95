"""What an evaluation asks under: noise, misleading instructions, attacks."""
