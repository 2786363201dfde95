"""Instructions: banks, slots, phrasings and paraphrases."""
