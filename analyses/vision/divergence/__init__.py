"""How much heads depend on the picture, and what becomes of answers when those heads are made louder (VHD, VHR)."""
