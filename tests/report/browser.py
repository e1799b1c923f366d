"""A headless Chromium that opens pages at several widths and says what it sees.

Each page is shown in a frame of the wanted width (a browser window cannot be as narrow as a phone).
A probe inside it waits for the charts and sends back what it measured.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

PROBE = """
<script>
window.problems = [];
addEventListener("error", (event) => problems.push(String(event.message)));
addEventListener("load", () => setTimeout(() => {
  const box = (element) => element.getBoundingClientRect();
  const cross = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1.5
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1.5;
  const overlaps = [], outside = [];
  for (const chart of document.querySelectorAll(".chart")) {
    const words = [...chart.querySelectorAll("svg text")].filter((text) =>
      text.textContent.trim() && box(text).width && getComputedStyle(text).visibility !== "hidden"
      && !text.closest(".hoverlayer"));
    words.forEach((one, n) => {
      for (const other of words.slice(n + 1)) {
        if (cross(box(one), box(other))) overlaps.push([one.textContent, other.textContent]);
      }
      const frame = box(chart);
      if (box(one).left < frame.left - 1 || box(one).right > frame.right + 1) {
        outside.push(one.textContent);
      }
    });
  }
  const spilled = [...document.querySelectorAll(".chip, .segment b, .tile .value")]
    .filter((element) => element.scrollWidth > element.clientWidth + 1)
    .map((element) => element.textContent);
  parent.postMessage(JSON.stringify({
    problems, overlaps, outside, spilled,
    width: innerWidth,
    scrolled: document.documentElement.scrollWidth,
    drawn: [...document.querySelectorAll(".chart")].filter((c) => c.querySelector("svg")).length,
    charts: document.querySelectorAll(".chart").length,
    bars: document.querySelectorAll(".chart .barlayer path").length,
    lines: document.querySelectorAll(".chart .scatterlayer path.js-line").length,
    fetched: performance.getEntriesByType("resource").map((entry) => entry.name),
    sections: [...document.querySelectorAll("h2")].map((title) => title.textContent),
    ink: getComputedStyle(document.body).color,
  }), "*");
}, 1500));
</script>
"""


@cache
def chromium() -> str | None:
    """The browser's program, or None."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def seen(pages: Sequence[tuple[str, int]], folder: Path) -> list[dict[str, Any]]:
    """What a browser measures on every page, each a pair of its text and a width in pixels."""
    frames = []
    for n, (text, width) in enumerate(pages):
        file = folder / f"page-{n}.html"
        file.write_text(text.replace("<main>", PROBE + "<main>"), encoding="utf-8")
        frames.append(f'<iframe src="{file.name}" style="width:{width}px;height:4000px"></iframe>')
    listener = (
        "<pre></pre><script>addEventListener('message', (event) => {"
        "document.querySelector('pre').append(event.data + '\\n'); });</script>"
    )
    index = folder / "index.html"
    index.write_text(f"<!doctype html>{listener}{''.join(frames)}", encoding="utf-8")
    program = chromium()
    assert program is not None
    command = [
        *(program, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"),
        *("--window-size=1400,4000", "--virtual-time-budget=8000", "--dump-dom"),
        *(f"--user-data-dir={folder / 'profile'}", index.as_uri()),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    match = re.search(r"<pre>(.*?)</pre>", ended.stdout, re.DOTALL)
    assert match is not None, ended.stderr[-2000:]
    found = [json.loads(line) for line in unescape(match[1]).splitlines() if line]
    return sorted(found, key=lambda page: (page["width"], page["charts"]))
