"""Scenes whose truth is known: what is in them, their pictures, what is asked, and the small model that sees them."""
