"""Path patching inside a model: a change that reaches chosen receivers directly, and no one else."""
