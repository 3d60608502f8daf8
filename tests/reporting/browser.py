"""A page as Chromium shows it: what it measures, says on the console and asks of the network."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
_ALONE = [
    "--headless",
    "--no-sandbox",  # as root there is no other way; the pages are our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr",
]
_ITS_OWN = re.compile(r"https?://[a-z0-9.]*\.google(apis)?\.com/")
"""What the browser asks its maker whatever page it shows."""
_POLICY = re.compile(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>")
_PROBE = """<pre id="probe"></pre><script>
const seen = {wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  paper: getComputedStyle(document.body).backgroundColor, charts: {}, scripts: document.scripts.length - 1,
  bold: document.querySelectorAll("b").length};
for (const svg of document.querySelectorAll("svg")) {
  const box = svg.getBoundingClientRect(), painted = {};
  for (const shape of svg.querySelectorAll("rect, path")) {
    const at = shape.getBoundingClientRect(), look = getComputedStyle(shape);
    if (look.fillOpacity !== "0" && look.fill !== "none")
      painted[look.fill] = (painted[look.fill] || 0) + at.width * at.height;
  }
  const outside = [...svg.querySelectorAll("text")].filter(text => {
    const at = text.getBoundingClientRect();
    return at.left < box.left - 1 || at.right > box.right + 1 || at.top < box.top - 1 || at.bottom > box.bottom + 1; });
  seen.charts[svg.id] = {width: box.width, height: box.height, painted, outside: outside.map(t => t.textContent),
    bars: svg.querySelectorAll(".bars rect").length};
}
document.getElementById("probe").textContent = JSON.stringify(seen);
</script>"""


class Shown(NamedTuple):
    dom: str
    console: list[str]
    requests: set[str]


def show(page: Path, folder: Path, *options: str) -> Shown:
    """Load a page; AssertionError when the browser does not manage within a minute."""
    assert CHROMIUM is not None
    log = folder / "net.json"
    done = subprocess.run(
        [CHROMIUM, *_ALONE, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", *options, "--dump-dom",
         page.as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    asked = set(re.findall(r'"url":"((?:http|ws)[^"]*)"', log.read_text(errors="replace")))
    return Shown(done.stdout, console, {url for url in asked if not _ITS_OWN.match(url)})


def measure(page: Path, folder: Path, *options: str) -> dict[str, Any]:
    """What a script sees that is put into a copy of the page, whose policy would forbid it."""
    copy = folder / "probed.html"
    copy.write_text(_POLICY.sub("", page.read_text()).replace("</body>", _PROBE + "</body>"))
    found = re.search(r'<pre id="probe">(.*?)</pre>', show(copy, folder, *options).dom, re.DOTALL)
    assert found is not None
    seen: dict[str, Any] = json.loads(unescape(found[1]))
    return seen


def screenshot(page: Path, folder: Path, *options: str) -> bytes:
    """A PNG of it, 1100 x 2800."""
    target = folder / "page.png"
    show(page, folder, "--hide-scrollbars", "--window-size=1100,2800", f"--screenshot={target}", *options)
    return target.read_bytes()
