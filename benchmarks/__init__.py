"""Speed and accuracy, side by side with the alternatives in one run. Not part of the tests."""
