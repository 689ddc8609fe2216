"""Attention arithmetic on plain tensors; import the file you need, nothing is loaded from here."""
