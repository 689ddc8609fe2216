"""A module of static/ in a headless browser: a script acts on it as a reader would, and what it found comes back.

The page is a file, and the browser may reach nothing else. In the script, `model` is the widget's model, `root` its
element, `key(element, name)` presses a key, `type(field, text)` fills a field, and `until()` waits for the next frame.
What it returns is given back.
"""

import base64
import html
import json
import re
import shutil
import subprocess
from importlib.resources import files

import pytest

from headlens.javascript import module

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--virtual-time-budget=4000",
)
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><style>%s</style>
<body class="headlens-report"><main><div id="map"></div></main><pre id="found"></pre>
<script type="text/plain" id="code">%s</script>
<script type="module">
const given = %s;
const traits = given.traits;
for (const [name, text] of Object.entries(given.bytes)) {
  traits[name] = new DataView(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
}
const [heard, errors] = [{}, []];
const model = {
  saved: 0,
  get: (name) => traits[name],
  set(name, value) {
    if (traits[name] === value) return;
    traits[name] = value;
    for (const listener of heard[`change:${name}`] ?? []) listener();
  },
  save_changes() { model.saved += 1; },
  on(name, listener) { (heard[name] ??= []).push(listener); },
  off(name, listener) { heard[name] = (heard[name] ?? []).filter((other) => other !== listener); },
};
window.addEventListener("error", (event) => errors.push(String(event.message)));
const root = document.getElementById("map");
const key = (element, name, more = {}) =>
  element.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, ...more }));
const type = (field, text, event = "input") => {
  field.value = text;
  field.dispatchEvent(new Event(event, { bubbles: true }));
};
const until = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
let found = null;
try {
  const url = URL.createObjectURL(new Blob([document.getElementById("code").textContent], { type: "text/javascript" }));
  const { default: widget } = await import(url);
  const leave = widget.render({ model, el: root });
  await until();
  found = await (async () => { %s })();
} catch (error) { errors.push(String(error.stack)); }
document.getElementById("found").textContent = JSON.stringify({ found, errors });
</script></body></html>"""


def trial(name, styles, traits, sent, script, folder, width=1280, dark=False):
    """What the script returns. Skips where there is no browser; an error in the page is an assertion."""
    if not BROWSER:
        pytest.skip("no chromium here; `apt-get install chromium` brings one")
    css = "".join(files("headlens").joinpath("static", style).read_text() for style in ("report.css", *styles))
    given = {"traits": traits, "bytes": {name: base64.b64encode(data).decode() for name, data in sent.items()}}
    text = _PAGE % (css, module(name), json.dumps(given).replace("<", "\\u003c"), script)
    page = folder / "trial.html"
    page.write_text(text)
    theme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    where = (theme, f"--window-size={width},900", f"--user-data-dir={folder / 'browser'}")
    run = subprocess.run(
        [BROWSER, *FLAGS, *where, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (result,) = re.findall('<pre id="found">(.*?)</pre>', run.stdout, re.DOTALL)
    answer = json.loads(html.unescape(result))
    assert answer["errors"] == []
    return answer["found"]
