"""The command line, a module for each command; no logic of its own."""
