"""The regenerated gallery, and the plot style that it shares."""
