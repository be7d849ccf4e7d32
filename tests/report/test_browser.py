"""The page in a real browser: it renders as it should, wide and narrow, without a word in the console."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.support.reported_runs import whole_page

if TYPE_CHECKING:
    from pathlib import Path

CHROMIUM = shutil.which("chromium")

pytestmark = [pytest.mark.process, pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")]

# The page stands in a frame, because a headless window is never narrower than 500 pixels.
FRAME = """<!doctype html><html lang="en"><link rel="icon" href="data:,"><title>frame</title>
<iframe id="frame" width="{width}" height="1000" style="border: 0"></iframe><pre id="found"></pre><script>
const frame = document.getElementById("frame");
frame.onload = async () => {{
  const page = frame.contentDocument;
  await Promise.all([...page.images].map(image => image.decode()));
  const columns = number =>
    [...page.querySelectorAll("#speed tbody tr")].map(row => row.children[number].textContent);
  const before = columns(1);
  const head = page.querySelectorAll("#speed thead th")[1];
  (head.querySelector("button") ?? head).click();
  const plots = [...page.querySelectorAll(".plot svg")].map(svg => svg.getBoundingClientRect());
  document.getElementById("found").textContent = JSON.stringify({{
    width: page.documentElement.clientWidth,
    needed: page.documentElement.scrollWidth,
    images: [...page.images].map(image => image.naturalWidth),
    plots: plots.map(box => [box.width, box.height]),
    cut: [...page.querySelectorAll(".wide")].filter(box => box.scrollWidth > box.clientWidth).length,
    before,
    after: columns(1),
    text: getComputedStyle(page.body).color,
    ground: getComputedStyle(page.body).backgroundColor,
    ink: [...page.querySelectorAll(".plot svg text")].map(text => getComputedStyle(text).fill),
  }});
}};
frame.srcdoc = {page};
</script></html>"""

_ATTEMPTS = 5
"""On a busy machine chromium may hand over a document whose frame has not been loaded yet."""


def chromium(folder: Path, address: str, *options: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"),
        *("--enable-logging=stderr", "--virtual-time-budget=60000", f"--user-data-dir={folder / 'profile'}"),
        *options,
        address,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.html"
    path.write_text(whole_page(), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_works(page: Path, tmp_path: Path, width: int, scheme: str) -> None:
    # Within a script the end of a script would be taken for its own.
    text = json.dumps(page.read_text(encoding="utf-8")).replace("</", "<\\/")
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(width=width, page=text), encoding="utf-8")
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    match = None
    for _ in range(_ATTEMPTS):
        done = chromium(tmp_path, frame.as_uri(), "--dump-dom", "--window-size=1400,1000", *dark)
        assert "CONSOLE" not in done.stderr, done.stderr
        match = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
        if match:
            break
    assert match, done.stdout[-2000:]
    found: dict[str, Any] = json.loads(html.unescape(match[1]))
    assert found["width"] == width
    assert found["needed"] <= width, "it has to be scrolled sideways"
    assert found["images"]
    assert all(found["images"])
    assert found["plots"]
    assert all(0 < plot_width <= width and height > 100 for plot_width, height in found["plots"])
    rates = [float(text.partition(" (")[0]) for text in found["after"]]
    assert rates == sorted(rates) != rates[::-1]
    assert sorted(found["before"]) == sorted(found["after"])
    assert width < 1200 or found["cut"] == 0, "tables fit where there is room"
    bright = [sum(map(int, re.findall(r"\d+", found[what])[:3])) for what in ("text", "ground")]
    assert (bright[0] < bright[1]) == (scheme == "light"), found
    assert found["text"] in found["ink"], "plots are drawn in the colour of the text"


def test_the_page_is_seen(page: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    chromium(tmp_path, page.as_uri(), f"--screenshot={picture}", "--window-size=1000,3000")
    pixels = np.asarray(Image.open(io.BytesIO(picture.read_bytes())).convert("RGB"))
    rows_with_ink = (pixels != pixels[0, 0]).any(axis=(1, 2)).mean()
    assert rows_with_ink > 0.3
