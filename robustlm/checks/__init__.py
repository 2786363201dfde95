"""Checks of settings, paths and messages; each error says the setting, what was found and what was expected."""
