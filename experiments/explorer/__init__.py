"""A page to play with: what becomes of learning as rewards and probabilities are moved."""
