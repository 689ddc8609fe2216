"""The memory hints leave nothing behind that a program could see. What they save is for the bench to show."""

import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
from headlens.hooks.host_memory import ask_for_huge_pages, keep_freed_memory
before = dict(os.environ)
ask_for_huge_pages()
keep_freed_memory()
assert dict(os.environ) == before
"""


@pytest.mark.parametrize("settings", [{}, {"THP_MEM_ALLOC_ENABLE": "0"}])
def test_the_environment_is_left_as_it_was(settings):
    subprocess.run([sys.executable, "-c", SCRIPT], env=settings, check=True)
