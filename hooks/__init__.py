"""Interception: what a model computes inside each head, recorded or edited while it runs."""
