"""Edges inside a model: what senders write, runs with some edges cut, single edges patched, and their gradients."""
