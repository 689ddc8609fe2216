"""Attention that sinks hold, moved to image patches (VAR): sink dimensions, sinks, image-centric heads, the edit."""
