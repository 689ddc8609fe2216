"""What the README tells people to type, typed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headlens import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_two_commands_at_the_top_are_targets():
    commands = re.findall(r"^    make (\w+)", README, re.MULTILINE)
    assert commands == ["demo", "test"]
    for name in commands:
        assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", re.findall(r"^    headlens (.+?)(?: +#.*)?$", README, re.MULTILINE))
def test_every_command_and_option_exists(line):
    for command in line.split()[0:1] if "|" not in line else line.split(" | "):
        options = CliRunner().invoke(cli.app, [command, "--help"])
        assert options.exit_code == 0
        assert all(f"{word} " in options.stdout for word in line.split() if word.startswith("--"))


@pytest.mark.real
def test_the_notebook_lines_run(tmp_path):
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    # fewer prompts
    code = re.sub(r"n=(64|50|20)\b", "n=2", code)
    # whole patterns: entry by entry takes minutes, and tests/analyses/test_sweep_sites.py does it
    code = code.replace('axes=("layer", "head", "query", "key")', 'axes=("layer", "head")')
    code = code.replace("n=400", "n=12").replace("calibrate(model, task)", "calibrate(model, task, candidates=2)")
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "L23H3" in result.stdout and "torch.Size([2, " in result.stdout
    assert "triples are sinks" in result.stdout and "calibrated alone there" in result.stdout
    assert (tmp_path / "ioi.safetensors").is_file() and (tmp_path / "runs" / "ioi" / "run.json").is_file()
