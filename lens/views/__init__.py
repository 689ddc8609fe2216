"""Widgets: what a map, a pattern, a circuit or a picture looks like in a notebook, and saved as one page."""
