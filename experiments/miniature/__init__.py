"""RLHF at a size at which every expectation is a sum: pairs of digits, a hundred answers, learned rewards."""
