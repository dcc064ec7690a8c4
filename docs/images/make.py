"""Makes report.png, the README's picture: `python docs/images/make.py [RUN_FOLDER]`, from a real run or else from example_run.py's made-up one.

Needs Chromium (`apt-get install chromium fonts-inter`) and Pillow. Other widths and dark pages, for looking at while working on the report:

    python docs/images/make.py RUN_FOLDER --width 390 --dark --whole --out /tmp/phone.png
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import example_run
from PIL import Image, ImageChops

from tempering import report

HERE = Path(__file__).parent
LIMIT = 300_000
"""Bytes of the picture at most: a README should open at once."""


def shoot(page: Path, out: Path, *, width: int, height: int, dark: bool = False, scale: float = 1.0) -> None:
    """A screenshot of a local page. Chromium's window has a least width of 500, so that a phone is a frame inside a wider page."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("No Chromium here; install it with: apt-get install chromium fonts-inter")
    with tempfile.TemporaryDirectory() as temporary:
        target = page.resolve()
        if width < 500:
            target = Path(temporary) / "frame.html"
            frame = f'<body style="margin:0"><iframe src="{page.resolve().as_uri()}" style="border:0;width:{width}px;height:{height}px"></iframe>'
            target.write_text(f"<!doctype html>{frame}", encoding="utf-8")
        command = [
            browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={temporary}/profile",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--force-device-scale-factor={scale}",
            f"--window-size={max(width, 500)},{height}", f"--screenshot={out.resolve()}", target.as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(out) as picture:
        picture.convert("RGB").crop((0, 0, int(width * scale), picture.height)).save(out)


def trim(path: Path) -> None:
    """Cuts the empty end of a page that is shorter than the window."""
    with Image.open(path) as picture:
        empty = Image.new("RGB", picture.size, picture.getpixel((2, picture.height - 1)))
        box = ImageChops.difference(picture.convert("RGB"), empty).getbbox()
        picture.crop((0, 0, picture.width, min(picture.height, (box[3] if box else 0) + 30))).save(path)


def squeeze(path: Path) -> None:
    """Fewer colours, where it has to be, until the file is small enough."""
    with Image.open(path) as picture:
        full = picture.convert("RGB")
    full.save(path, optimize=True)
    if path.stat().st_size < LIMIT:
        return
    for colours in (256, 128, 64, 32):
        full.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size < LIMIT:
            return
    sys.exit(f"{path} is {path.stat().st_size:,} bytes, more than {LIMIT:,}; use a smaller window.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="run folder; by default a made-up one")
    parser.add_argument("--out", type=Path, default=HERE / "report.png")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=1660)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--whole", action="store_true", help="the whole page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.run or example_run.write(Path(temporary) / "run")
        page = report.write(folder)
        height = 14_000 if options.whole else options.height
        shoot(page, options.out, width=options.width, height=height, dark=options.dark)
        if options.whole:
            trim(options.out)
        else:
            squeeze(options.out)
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
