"""`make faults`: every fault at full count; writes figures/faults.csv and faults.md, with --publish also the documents."""

import argparse
import os
import platform
import tempfile
from pathlib import Path

import torch
from tqdm import tqdm

from faults import bits, disks, kills, scale, stops, victim, writers
from faults.finding import markdown, table
from grokking.execute.unit import machine
from grokking.publish import PUBLISHED, rewrite_documents

EXPERIMENT = victim.ROOT / "experiments" / "delayed_generalization.py"
KILLS, STOPS, FLIPS, CUTS, UNITS = 50, 20, 1_000, 200, 5_000


def main() -> int:
    """Run all; 1 if a promise was not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--publish", action="store_true", help="maintainers: also to figures/published and the documents"
    )
    publish = parser.parse_args().publish
    found = []
    torch.set_num_threads(1)
    total = 1 + UNITS // 100 + FLIPS + CUTS + 1 + 4 + KILLS + STOPS + 1
    with tempfile.TemporaryDirectory() as place, tqdm(total=total, desc="faults", unit="fault") as bar:
        folder = Path(place)

        def tick(by: float = 1) -> None:
            bar.update(by)

        # The timed part first, while nothing else runs.
        found += scale.measure(folder / "scale", UNITS, tick=lambda: tick(0.01))
        found += writers.write_at_once(folder / "writers", 8, 200)
        tiny = victim.tiny_experiment(folder)
        expected = victim.undisturbed(tiny, folder / "tiny")
        found += bits.spoil(folder / "bits", FLIPS, CUTS, draw_every=10, tick=tick)
        for fault in (disks.full, disks.read_only, disks.removed):
            found.append(fault(tiny, folder, expected))
            tick()
        found.append(disks.malicious(folder / "malicious", expected))
        tick()
        found.append(stops.forget(tiny, folder, expected))
        expected = victim.undisturbed(EXPERIMENT, folder / "undisturbed")
        tick()
        found.append(kills.share(folder / "undisturbed" / "results", every=1))
        found += kills.kill(EXPERIMENT, folder, expected, KILLS, latest=20, every=1, tick=tick)
        found += stops.stop(EXPERIMENT, folder, expected, STOPS, latest=20, tick=tick)
    lines = table(found)
    where = f"{machine('cpu')}, {os.cpu_count()} cores, {platform.system()}, PyTorch {torch.__version__}"
    for to in (Path("figures"), *([PUBLISHED] if publish else [])):
        lines.assign(machine=where).to_csv(to / "faults.csv", index=False)
        (to / "faults.md").write_text(f"{markdown(lines)}\n\nMeasured by `make faults` on: {where}.\n")
    if publish:
        rewrite_documents()
    print(markdown(lines))
    return int((lines["kept"] == False).any())  # noqa: E712  (None is neither)


if __name__ == "__main__":
    raise SystemExit(main())
