"""Other libraries' names, arguments and results with headlens inside: a notebook changes one import."""
