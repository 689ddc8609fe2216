"""Files that headlens reads through importlib.resources: task templates, small models and their scripts."""
