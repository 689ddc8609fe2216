"""Other published ways to read or change attention to pictures, each in a short file, on the same hooks."""
