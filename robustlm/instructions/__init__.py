"""Instructions: banks of them, slots in them, paraphrases of them."""
