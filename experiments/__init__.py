"""Reproducible experiments: one module each, with its settings, its run, its figure and its caption."""
