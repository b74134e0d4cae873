"""Trains the letter finder of the pictures (client/imaging/networks.py) on drawn ones (sim/lettering.py).

    python -m sim.letter_finder client/imaging/weights/letter_finder.onnx --fonts DIR --grounds DIR

It sees a picture in the three colours that the detector sees it in, and says for each square of 2 x 2 pixels how
sure it is that it is the middle of a line of letters: a small network of the form of Ronneberger et al., "U-Net", 2015,
for letters of 5 to 40 pixels in any direction. An hour on two cores with bfloat16. Writing the file takes the
`onnx` package, which nothing else here needs.

The weights in the wheel are of 9,000 steps in which the rim of a line did not count, and of 1,800 from there in which
it was ground (at three tenths of the rate), with 48 fonts (DejaVu, Liberation, Roboto, Bitstream Vera) and with 70
radiographs as grounds: every picture from the 107th on, by name, of Kermany, Zhang, Goldbaum, "Labeled Optical
Coherence Tomography (OCT) and Chest X-Ray Images for Classification", as in the folder of 176 that developers have.
(Some of these carry a marker or an exposure, which counted as ground: blank them before the next training.)
"""

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

from client.imaging.strokes import colours
from sim.lettering import Artist

_WIDTHS = (24, 40, 64, 96)  # channels at a half, a quarter, an eighth and a sixteenth of the picture's size
_BATCH = 12
_SEED = 7


def _block(inward: int, outward: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for wide in (inward, outward):
        layers += [nn.Conv2d(wide, outward, 3, padding=1, bias=False), nn.BatchNorm2d(outward), nn.ReLU()]
    return nn.Sequential(*layers)


class LetterFinder(nn.Module):
    """(n, 3, rows, columns) of shades from 0 to 1, sides divisible by 16, to (n, 1, rows / 2, columns / 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.PixelUnshuffle(2)
        self.down = nn.ModuleList(_block(a, b) for a, b in zip((12, *_WIDTHS), _WIDTHS, strict=False))
        pairs = zip(_WIDTHS[::-1], _WIDTHS[-2::-1], strict=False)
        self.up = nn.ModuleList(_block(below + level, level) for below, level in pairs)
        self.last = nn.Conv2d(_WIDTHS[0], 1, 1)

    def logits(self, pictures: Tensor) -> Tensor:
        seen = self.first(pictures - 0.5)
        levels: list[Tensor] = []
        for block in self.down:
            seen = block(functional.max_pool2d(levels[-1], 2) if levels else seen)
            levels.append(seen)
        for block, level in zip(self.up, levels[-2::-1], strict=True):
            larger = functional.interpolate(seen, scale_factor=2.0, mode="nearest")
            seen = block(torch.cat((larger, level), dim=1))
        logits: Tensor = self.last(seen)
        return logits

    def forward(self, pictures: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(pictures))


class _Drawn(IterableDataset[tuple[Tensor, Tensor, Tensor]]):
    def __init__(self, fonts: list[Path], grounds: list[Path]) -> None:
        self._fonts, self._grounds = fonts, grounds

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        worker = torch.utils.data.get_worker_info()
        artist = Artist(np.random.default_rng([_SEED, worker.id if worker else 0]), self._fonts, self._grounds)
        while True:
            drawn = artist.draw()
            planes = torch.from_numpy(np.moveaxis(colours(drawn.picture), 2, 0).copy())
            core, unclear = (_halved(mask) for mask in (drawn.core, drawn.unclear))
            yield planes, core, unclear & ~core


def _halved(mask: np.ndarray) -> Tensor:
    small = mask.reshape(mask.shape[0] // 2, 2, mask.shape[1] // 2, 2).sum(axis=(1, 3)) >= 2
    return torch.from_numpy(small[None])


def loss_of(logits: Tensor, core: Tensor, unclear: Tensor) -> Tensor:
    """Cross-entropy and what is missing to a full overlap, over what is clear."""
    clear = (~unclear).float()
    each = functional.binary_cross_entropy_with_logits(logits, core.float(), reduction="none") * clear
    sure = torch.sigmoid(logits) * clear
    shared, both = (sure * core).sum(), sure.sum() + core.sum()
    return 4 * (each * (1 + 3 * core)).mean() + 1 - (2 * shared + 1) / (both + 1)


def train(fonts: list[Path], grounds: list[Path], steps: int, *, workers: int = 0) -> LetterFinder:
    """With `workers`, pictures are drawn in processes of their own. Progress goes to stdout."""
    torch.manual_seed(_SEED)
    network = LetterFinder()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loader = DataLoader(_Drawn(fonts, grounds), batch_size=_BATCH, num_workers=workers)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.05)
    start, recent = time.monotonic(), 0.0
    for step, (planes, core, unclear) in enumerate(loader, start=1):
        planes = (planes.float() / 255).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network.logits(planes)
        loss = loss_of(logits.float(), core, unclear)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        recent = loss.item() if step == 1 else 0.98 * recent + 0.02 * loss.item()
        if step % 100 == 0:
            minutes = (time.monotonic() - start) / 60
            print(f"step {step} of {steps}: loss {recent:.4f}, {minutes:.1f} min", flush=True)
        if step == steps:
            break
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return network.eval()


def save(network: LetterFinder, path: Path) -> None:
    sizes = {"pictures": {2: "rows", 3: "columns"}, "sure": {2: "rows", 3: "columns"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the newer exporter needs one package more
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, 64, 64),),
            str(path),
            input_names=["pictures"],
            output_names=["sure"],
            dynamic_axes=sizes,
            dynamo=False,
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("weights", type=Path)
    parser.add_argument("--fonts", type=Path, help="folder of .ttf files; without it, pillow's own font")
    parser.add_argument("--grounds", type=Path, help="folder of radiographs as .jpeg, besides the drawn ones")
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    fonts = sorted(given.fonts.rglob("*.ttf")) if given.fonts else []
    grounds = sorted(given.grounds.rglob("*.jpeg")) if given.grounds else []
    save(train(fonts, grounds, given.steps, workers=given.workers), given.weights)


if __name__ == "__main__":
    main()
