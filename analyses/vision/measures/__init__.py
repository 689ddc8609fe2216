"""What answers about pictures are worth: POPE, CHAIR, areas under curves, and what a constant alone would do."""
