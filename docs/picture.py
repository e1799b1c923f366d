"""Photographs a part of a page that `planner report` wrote, with a headless Chromium.

    python docs/picture.py report.html FIRST LAST -o picture.png

FIRST and LAST are titles of sections; they and all between them are in the picture. Made like this:

    planner plan llama-2-13b s1-a100-v100 --seq-len 4096 -o plan.json
    planner report plan.json -o report.html
    python docs/picture.py report.html 'Cluster and placement' Memory \\
        -o docs/guides/pictures/report-24-chips.png

Needs Chromium, and Pillow (which comes with matplotlib).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTH, HEIGHT = 1140, 4000
"""Pixels of the window; what stays white below is cut off."""

MARGIN = 16
COLOURS = 128

KEEP = """
<script>
const titles = [...document.querySelectorAll("section > h2")].map((title) => title.textContent);
const first = titles.indexOf(%s), last = titles.indexOf(%s);
document.querySelectorAll("main > *").forEach((part) => {
  const title = part.querySelector(":scope > h2");
  const at = title ? titles.indexOf(title.textContent) : -1;
  if (at < first || at > last) part.remove();
});
</script>
"""


def photographed(page: Path, first: str, last: str, folder: Path) -> Image.Image:
    """The sections from ``first`` to ``last`` as a picture. SystemExit if there is no browser."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        raise SystemExit(f"no browser: none of {', '.join(NAMES)} is on the path")
    text = page.read_text(encoding="utf-8")
    for title in (first, last):
        if f"<h2>{title}</h2>" not in text:
            raise SystemExit(f"{page}: has no section {title!r}")
    keep = KEEP % (json.dumps(first), json.dumps(last))
    shown, picture = folder / "shown.html", folder / "shown.png"
    shown.write_text(text.replace("</main>", f"</main>{keep}", 1), encoding="utf-8")
    subprocess.run(
        [
            *(program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *(f"--window-size={WIDTH},{HEIGHT}", "--virtual-time-budget=8000"),
            *(f"--user-data-dir={folder / 'profile'}", f"--screenshot={picture}", shown.as_uri()),
        ],
        check=True,
        capture_output=True,
        timeout=180,
    )
    return trimmed(Image.open(picture).convert("RGB"))


def trimmed(picture: Image.Image) -> Image.Image:
    """The picture without what is empty below and above, a margin kept."""
    empty = Image.new("RGB", picture.size, picture.getpixel((0, picture.height - 1)))
    box = ImageChops.difference(picture, empty).getbbox()
    if box is None:
        raise SystemExit("nothing was drawn")
    top, bottom = max(box[1] - MARGIN, 0), min(box[3] + MARGIN, picture.height)
    return picture.crop((0, top, picture.width, bottom))


def main(arguments: list[str]) -> int:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("first")
    parser.add_argument("last")
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        picture = photographed(given.page, given.first, given.last, Path(folder))
    picture.quantize(COLOURS).save(given.out, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
