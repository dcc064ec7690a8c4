"""Writes the tables of docs/scaling.md between its markers: `python docs/scaling.py`. A test checks that they are up to date."""

from __future__ import annotations

import re
from pathlib import Path

from tempering.distributed.arithmetic import GIB, Shape, need

PAGE = Path(__file__).with_name("scaling.md")
SHAPES = {
    "1B": Shape(16, 2048, 8192, 512, 128_256, tied=True),
    "8B": Shape(32, 4096, 14_336, 1024, 128_256, tied=False),
    "70B": Shape(80, 8192, 28_672, 1024, 128_256, tied=False),
}
GPUS = ((1, 1), (8, 1), (8, 8), (64, 1), (64, 8))
"""All of them, and how many share each matrix: those of one machine."""
TOKENS = 8192
LINK = 50e9
"""Bytes a second that one GPU sends and receives: a 400 Gbit/s network card each."""
BESIDE = 450e9
"""The same inside of a machine: an H100's NVLink, 900 GB/s both ways together."""
MATMUL = 0.4 * 989e12
"""Floating-point operations a second: 40% of what an H100 does in bfloat16."""


def table(adapter: bool) -> str:
    """Rows of models and numbers of GPUs."""
    head = "| model | GPUs | tensor | state | gathered | activations | memory | sent | beside | time to send | time to compute |"
    lines = [head, "|" + " --- |" + " ---: |" * 10]
    for name, shape in SHAPES.items():
        for gpus, tensor in GPUS:
            # LoRA of rank 16 on every linear layer: r (in + out) for each.
            widths = 2 * (2 * shape.width) + 2 * (shape.width + shape.key_width) + 3 * (shape.width + shape.inner)
            n = need(shape, gpus, TOKENS, 16 * shape.layers * widths if adapter else None, tensor)
            # Forward 2, backward 4 (2 where weights are frozen), recomputed 2.
            work = (6 if adapter else 8) * (shape.layers * shape.block / tensor + shape.root) * TOKENS
            sizes = " | ".join(f"{x / GIB:.1f}" for x in (n.state, n.gathered, n.activations, n.memory, n.sent, n.beside))
            times = f"{n.sent / LINK + n.beside / BESIDE:.2f} s | {work / MATMUL:.2f} s"
            lines.append(f"| {name} ({shape.parameters / 1e9:.2f}) | {gpus} | {tensor} | {sizes} | {times} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with its tables made anew."""
    for name, adapter in (("full", False), ("lora", True)):
        text = re.sub(
            rf"(<!-- table: {name} -->\n).*?(\n<!-- end of table -->)", lambda m, a=adapter: m[1] + table(a) + m[2], text, count=1, flags=re.DOTALL
        )  # fmt: skip
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
