"""What keeps a page to itself: its policy, and how text is put into its script elements."""

import base64
import hashlib

# Inside a script element only the end of that element matters; the last two end a line in some JavaScript.
ESCAPES = {ord(mark): f"\\u{ord(mark):04x}" for mark in "<>&\u2028\u2029"}


def policy(css: str, script: str, images: bool = False) -> str:
    """Nothing from the network, and no script or style but the page's own, known by their digests; `images` may be
    written out in it."""
    style, code = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (css, script))
    inside = "img-src data:; " if images else ""
    return (
        f"default-src 'none'; script-src 'sha256-{code}' blob:; style-src 'sha256-{style}'; {inside}base-uri 'none'; "
        "form-action 'none'"
    )
