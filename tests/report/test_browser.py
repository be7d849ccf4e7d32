"""The page in a real browser: wide and narrow layouts, interaction, and an empty console."""

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

from ddim_host.report.comparison import compare
from ddim_host.report.page import render_page
from ddim_host.report.reported_run import DuringTraining, Grid
from ddim_host.run.images import grid_png
from tests.support.reported_runs import IMAGES, RECORD, reported, whole_page

if TYPE_CHECKING:
    from pathlib import Path

CHROMIUM = shutil.which("chromium")

pytestmark = [pytest.mark.process, pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")]

# The page is in a frame, because a headless window is never narrower than 500 pixels.
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
  const drawn = [...page.querySelectorAll(".plot svg")].filter(svg => svg.getClientRects().length);
  const plots = drawn.map(svg => svg.getBoundingClientRect());
  const letters = drawn.map(svg => 10 * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width);
  document.getElementById("found").textContent = JSON.stringify({{
    width: page.documentElement.clientWidth,
    needed: page.documentElement.scrollWidth,
    images: [...page.images].map(image => image.naturalWidth),
    plots: plots.map(box => [box.width, box.height]),
    letters,
    allPlots: page.querySelectorAll("figure > .plot").length,
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
"""On a busy machine, chromium may dump a document before its frame has loaded."""


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


def in_script(text: str) -> str:
    """Return a string literal of JavaScript."""
    # A closing script tag would end the script that contains it.
    return json.dumps(text).replace("</", "<\\/")


def found_in(folder: Path, frame: str, *options: str) -> dict[str, Any]:
    """Open a frame in the browser, and return what its script found."""
    path = folder / "frame.html"
    path.write_text(frame, encoding="utf-8")
    for _ in range(_ATTEMPTS):
        done = chromium(folder, path.as_uri(), "--dump-dom", *options)
        assert "CONSOLE" not in done.stderr, done.stderr
        match = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
        if match:
            found: dict[str, Any] = json.loads(html.unescape(match[1]))
            return found
    raise AssertionError(done.stdout[-2000:])


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.html"
    path.write_text(whole_page(), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_and_works(page: Path, tmp_path: Path, width: int, scheme: str) -> None:
    frame = FRAME.format(width=width, page=in_script(page.read_text(encoding="utf-8")))
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    found = found_in(tmp_path, frame, "--window-size=1400,1000", *dark)
    assert found["width"] == width
    assert found["needed"] <= width, "the page must not scroll sideways"
    assert found["images"]
    assert all(found["images"])
    assert found["plots"]
    assert all(0 < plot_width <= width and height > 100 for plot_width, height in found["plots"])
    assert len(found["plots"]) == found["allPlots"] / 2, "each plot must be shown in one of its two sizes"
    assert min(found["letters"]) > 10, "letters on the axes must be legible"
    rates = [float(text.partition(" (")[0]) for text in found["after"]]
    assert rates == sorted(rates) != rates[::-1]
    assert sorted(found["before"]) == sorted(found["after"])
    assert width < 1200 or found["cut"] == 0, "tables must fit on a wide page"
    bright = [sum(map(int, re.findall(r"\d+", found[what])[:3])) for what in ("text", "ground")]
    assert (bright[0] < bright[1]) == (scheme == "light"), found
    assert found["text"] in found["ink"], "plots must have the colour of the text"


def test_page_is_visible(page: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    chromium(tmp_path, page.as_uri(), f"--screenshot={picture}", "--window-size=1000,3000")
    pixels = np.asarray(Image.open(io.BytesIO(picture.read_bytes())).convert("RGB"))
    rows_with_ink = (pixels != pixels[0, 0]).any(axis=(1, 2)).mean()
    assert rows_with_ink > 0.3


USE = """<!doctype html><html lang="en"><link rel="icon" href="data:,"><title>frame</title>
<iframe id="frame" width="800" height="1000" style="border: 0"></iframe><pre id="found"></pre><script>
const frame = document.getElementById("frame");
frame.onload = () => {{
  const page = frame.contentDocument, view = frame.contentWindow;
  const frames = [...page.querySelectorAll(".film li")];
  const shown = () => frames.filter(one => !one.hidden).map(one => one.textContent.trim());
  const slider = page.querySelector("input[type=range]"), plot = page.querySelector(".plot");
  const first = shown();
  slider.value = 0;
  slider.dispatchEvent(new view.Event("input"));
  plot.focus();
  plot.dispatchEvent(new view.KeyboardEvent("keydown", {{key: "ArrowLeft"}}));
  document.getElementById("found").textContent = JSON.stringify({{
    first, moved: shown(), labelled: slider.labels[0].textContent,
    spoken: slider.getAttribute("aria-valuetext"), readout: plot.querySelector("output").textContent,
    buttons: page.querySelectorAll(".commands button").length,
    commands: page.querySelectorAll(".commands code").length,
  }});
}};
frame.srcdoc = {page};
</script></html>"""


def test_sliders_curves_and_commands_respond(tmp_path: Path) -> None:
    grids = tuple(DuringTraining(step, Grid("grid.png", grid_png(IMAGES), RECORD)) for step in (10, 20, 30))
    text = render_page(compare([reported(during_training=grids)]), title="t", command="c")
    assert "hidden" not in text[text.index("<ol") : text.index("</ol>")], (
        "the page must be complete without a script"
    )
    found = found_in(tmp_path, USE.format(page=in_script(text)))
    assert (found["first"], found["moved"]) == (
        ["after 30 training steps"],
        ["after 10 training steps"],
    )
    assert (found["labelled"], found["spoken"]) == ("training steps", "after 10 training steps")
    assert found["readout"] == "train: 0.01667 at training steps 30", (
        "ArrowLeft must select the point before the last"
    )
    assert found["buttons"] == found["commands"] > 0


def test_the_page_can_be_printed(page: Path, tmp_path: Path) -> None:
    paper = tmp_path / "page.pdf"
    chromium(tmp_path, page.as_uri(), f"--print-to-pdf={paper}")
    assert paper.read_bytes().startswith(b"%PDF")
