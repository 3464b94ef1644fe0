"""The speed-up curve: every rung of R50, R101 and YOLO s and l, beside the published points.

    python benchmarks/curve.py                                 # ONNX Runtime, CPU, one thread
    python benchmarks/curve.py --runtime torch-cudagraph --precision fp16      # an NVIDIA GPU
    python benchmarks/curve.py --networks yolo-s --count 10    # a quick look

Random weights at the authors' sizes and 640 x 640: latency does not depend on what a network has
learned, but its accuracy does, so that is the published one, and only of super and base. Networks
are measured one after the other, the rungs of each in turn (`anydepth-deploy bench`). Networks are
made once and kept in --folder; `--record` puts results and picture into benchmarks/results/.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from machine import RESULTS
from random_checkpoint import NETWORKS, write_random_checkpoint

from anydepth_deploy.bench.combinations import TORCH_MODES, Request, bench_all
from anydepth_deploy.bench.options import Options
from anydepth_deploy.bench.plots.page import draw
from anydepth_deploy.bench.report.formats import print_report
from anydepth_deploy.bench.results import BenchResult
from anydepth_deploy.commands.bench import show
from anydepth_deploy.console import bar, print_line
from anydepth_deploy.exporting.export import export_bundle

CURVE = ("r50", "r101", "yolo-s", "yolo-l")


def prepare(network: str, folder: Path, *, bundle: bool) -> Path:
    """The checkpoint, or the bundle with its gated graph; made where it is not there yet."""
    checkpoint = folder / f"{network}-random.pth"
    if not checkpoint.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{network}.partial"
        write_random_checkpoint(network, partial)
        partial.replace(checkpoint)
    if not bundle:
        return checkpoint
    with bar(f"export {network}") as progress:
        export_bundle(checkpoint, folder / network, progress=progress)
    return folder / network


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=list(CURVE), choices=sorted(NETWORKS))
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--count", type=int, default=30, help="rounds")
    parser.add_argument("--duration", type=float, default=5.0, help="seconds a rung, at least")
    parser.add_argument("--folder", type=Path, default=Path("engines/curve"))
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    torch = options.runtime in TORCH_MODES
    device = f"{options.runtime}-{options.precision}"
    target = (RESULTS if options.record else options.folder) / f"curve-{device}"
    results: list[BenchResult] = []
    for network in options.networks:
        request = Request(
            prepare(network, options.folder, bundle=not torch),
            runtimes=(options.runtime,),
            precisions=(options.precision,),
            threads=(options.threads,),
            options=Options(count=options.count, duration=options.duration, warmup=2.0),
        )
        with bar(network, still=True) as progress:
            ((_, result),) = bench_all(request, target / f"{network}.json", progress=progress)
        show(result)
        results.append(result)
    picture = target.with_suffix(".png")
    draw(results, picture, ("speedup", "accuracy"))
    print_report(results)
    print_line(f"picture: {picture}")


if __name__ == "__main__":
    main()
