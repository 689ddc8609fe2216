"""Edges between senders and receivers: attributed, patched exactly, and as maps."""
