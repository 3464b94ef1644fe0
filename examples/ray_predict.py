"""Objects in very many pictures, on Ray, into Parquet files or COCO's results.

    python examples/ray_predict.py engines/r50 photos found --depth base --coco found.json

Start it again after an interruption: it goes on with what is missing.
"""

from __future__ import annotations

import argparse
import sys

from anydepth_deploy import AnyDepthError
from anydepth_deploy.ray import predict_many, write_coco


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("source", help="a folder, a pattern, a Parquet file, s3://bucket/folder")
    parser.add_argument("out", help="the folder of Parquet files, which may be one of a store")
    parser.add_argument("--depth", default="super")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--workers", type=int, help="default: as many as there are cores")
    parser.add_argument("--part", type=int, default=500, help="pictures of a file")
    parser.add_argument("--again", action="store_true", help="parts with failures are made anew")
    parser.add_argument("--coco", metavar="FILE", help="write COCO's results, too")
    parser.add_argument("--data", help="the annotation file whose ids COCO's results have")
    options = parser.parse_args()

    def tell(what: str, done: int, total: int) -> None:
        print(f"part {done} of {total}: {what}", file=sys.stderr)

    try:
        report = predict_many(
            options.bundle,
            options.source,
            options.out,
            depth=options.depth,
            threshold=options.threshold,
            workers=options.workers,
            part=options.part,
            again=options.again,
            progress=tell,
        )
        for item in report.skipped[:20]:
            print(f"skipped: {item.error}", file=sys.stderr)
        print(
            f"{report.pictures} pictures in {report.seconds:.0f} s, {report.failed} of them "
            f"cannot be used; {report.before} were there"
        )
        if options.coco is not None:
            count = write_coco(options.out, options.coco, data=options.data)
            print(f"{options.coco}: results of {count} pictures")
    except AnyDepthError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
