"""What settings, places and messages are held against; each says the setting, what was found and what was expected."""
