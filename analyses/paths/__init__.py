"""Path patching: whom does each head speak to?"""
