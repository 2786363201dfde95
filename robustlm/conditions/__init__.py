"""Instruction conditions of an evaluation: noise, misleading instructions, attacks."""
