"""Circuits: which heads and MLPs do a task together, over which edges, and whether other tasks reuse them."""
