"""The figures, a module each: settings, run, figure and caption. None imports another."""
