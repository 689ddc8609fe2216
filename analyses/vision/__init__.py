"""Vision-language models: where heads look, what an image changes in them, and what follows from moving it."""
