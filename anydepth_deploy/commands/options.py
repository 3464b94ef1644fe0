"""What commands have in common: types of options, and what the text of a value means.

Values are judged here by their text alone, so that a command can refuse them before it imports
anything heavy. Words that are written into manifests are taken from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from anydepth_deploy.families import registry
from anydepth_deploy.manifest import (
    PRECISIONS,
    Deformable,
    Format,
    Layout,
    Target,
    Weights,
)
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.images import Resize
from anydepth_deploy.pictures.orientation import Orientation
from anydepth_deploy.runtimes.engine import Compute
from anydepth_deploy.verbs.words import batch_profile, memory, size_of, words_of

__all__ = [
    "ARTIFACTS",
    "ENGINES",
    "EXECUTION",
    "INT8",
    "NETWORK",
    "PICTURES",
    "ActivationOption",
    "BatchOption",
    "BuildRuntime",
    "BundlePath",
    "CheckpointPath",
    "DeformableOption",
    "Depths",
    "FamilyOption",
    "FineCosformerOption",
    "FinePositionOption",
    "FineUpsamplingOption",
    "Images",
    "Json",
    "LadderOption",
    "LayoutOption",
    "MaxPixels",
    "OrientationOption",
    "Panel",
    "PrecisionOption",
    "ResizeOption",
    "Runtime",
    "SamplingOption",
    "SizeOption",
    "TargetOption",
    "Threads",
    "TimingCacheOption",
    "WeightsOption",
    "WorkspaceOption",
    "batch_profile",
    "check_pictures",
    "family_names",
    "memory",
    "one_of",
    "precision_names",
    "size_of",
    "words_of",
]


LONGEST = 24
"""Letters of the words of an option that are shown in place of its type."""


def one_of(words: Sequence[str], **settings: Any) -> Any:
    """An option that takes one of ``words``; ``settings``: as for ``typer.Option``, with a
    ``metavar`` where the words are too many to be shown as one."""

    def read(text: str) -> str:
        if text in words:
            return text
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(map(repr, words))}.")

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    shown = f"<{'|'.join(words)}>"
    if len(shown) > LONGEST and "metavar" not in settings:  # there would be no room beside it
        shown = "<word>"
        if not all(f"{word}" in settings["help"] for word in words):
            settings["help"] = f"{', '.join(words)}. {settings['help']}"
    settings = {"metavar": shown, **settings}
    return typer.Option(parser=read, autocompletion=complete, **settings)


class Panel:
    """A heading that options are listed under."""

    def __init__(self, title: str) -> None:
        self._title = title

    def option(self, help: str | None = None, *names: str, **settings: Any) -> Any:
        """An option below this heading; the rest as for ``typer.Option``."""
        return typer.Option(*names, help=help, rich_help_panel=self._title, **settings)

    def one_of(self, words: Sequence[str], help: str) -> Any:
        """An option below this heading that takes one of ``words``."""
        return one_of(words, help=help, rich_help_panel=self._title)


ARTIFACTS = Panel("Depths and artifacts")
NETWORK = Panel("Network")
PICTURES = Panel("Pictures")
INT8 = Panel("INT8")
ENGINES = Panel("Engines")
EXECUTION = Panel("Execution")


def _raise_limit(context: typer.Context, max_pixels: int) -> int:
    """Take Pillow's own limit away for the length of a command that goes beyond it: the limit is
    the process's, and this one's process is ours."""
    if max_pixels > MAX_PIXELS and not context.resilient_parsing:
        from PIL import Image

        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        context.call_on_close(lambda: setattr(Image, "MAX_IMAGE_PIXELS", limit))
    return max_pixels


def family_names() -> tuple[str, ...]:
    """The families of networks, by the names that options take."""
    return registry.names()


def precision_names() -> tuple[str, ...]:
    """What a session computes in: the precisions of artifacts, and those that a runtime computes
    FP32 artifacts in."""
    return tuple(dict.fromkeys((*PRECISIONS, *get_args(Compute))))


Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines, nothing else.")]
Runtime = Annotated[str, EXECUTION.option("What executes the artifact.")]
Threads = Annotated[int | None, EXECUTION.option("Threads inside one operator.", min=1)]
Depths = Annotated[
    str,
    ARTIFACTS.option(
        "Depths, joined by commas: FFTT-F-6, super, base, level:K, all (the ladder), every."
    ),
]
BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of a bundle.")]
CheckpointPath = Annotated[Path, typer.Argument(metavar="CHECKPOINT")]
Images = Annotated[
    Path | None,
    typer.Option(help="A picture or a folder, of which three are used; default: generated ones."),
]
OrientationOption = Annotated[
    Orientation,
    PICTURES.one_of(
        get_args(Orientation), "Pictures turned by their EXIF orientation, or as they are stored."
    ),
]
AnnotatedOrientation = Annotated[
    Orientation | None,
    PICTURES.one_of(
        get_args(Orientation),
        "What the annotations mean: pictures turned by their EXIF orientation, or as they are "
        "stored; default: what their width and height say, else upright.",
    ),
]
MatchByRank = Annotated[
    bool,
    typer.Option(
        "--match-by-rank",
        help="Where names do not match: the k-th class is the category with the k-th lowest id.",
    ),
]
MaxPixels = Annotated[
    int,
    PICTURES.option(
        "Pixels of a picture at most, and of what resizing it takes.", min=1, callback=_raise_limit
    ),
]
LayoutOption = Annotated[
    Layout | None, ARTIFACTS.one_of(get_args(Layout), "Use only artifacts of this layout.")
]
WeightsOption = Annotated[
    Weights | None, ARTIFACTS.one_of(get_args(Weights), "Use the gated graph with these weights.")
]
PrecisionOption = Annotated[
    str,
    ARTIFACTS.one_of(
        precision_names(), "Of the artifact; bf16: the FP32 one, computed in BF16 (OpenVINO)."
    ),
]
TargetOption = Annotated[
    Target | None,
    ARTIFACTS.one_of(
        get_args(Target),
        "What the INT8 artifacts were made for; default: what the runtime likes best.",
    ),
]
FamilyOption = Annotated[
    str, one_of(family_names(), metavar="<name>", help=f"One of {', '.join(family_names())}.")
]
BuildRuntime = Annotated[
    str,
    one_of(
        [*(name for name in get_args(Format) if name != "onnx"), "onnxruntime"],
        help="What builds and runs the engines; onnxruntime: graphs in FP16 (--precision fp16).",
    ),
]
LadderOption = Annotated[
    str | None, NETWORK.option("Rungs from base to super, joined by commas, or a file with them.")
]
SizeOption = Annotated[str | None, NETWORK.option("Input size, HEIGHTxWIDTH.")]
ResizeOption = Annotated[
    Resize | None,
    NETWORK.one_of(
        get_args(Resize),
        "How pictures meet the input: stretched to it, or whole with bars around them; default: "
        "as in the family's training.",
    ),
]
DeformableOption = Annotated[
    Deformable,
    ARTIFACTS.one_of(
        get_args(Deformable),
        "Deformable attention with GridSample, or with gathers: some TensorRT versions get "
        "the first wrong.",
    ),
]
ActivationOption = Annotated[
    str | None,
    NETWORK.one_of(
        ("relu", "silu"), "D-FINE, DEIM: of the decoder, where 'inspect' says it is assumed."
    ),
]
SamplingOption = Annotated[
    str | None,
    NETWORK.one_of(("bilinear", "discrete"), "RT-DETRv2, D-FINE: how attention reads maps."),
]
FinePositionOption = Annotated[
    str | None,
    NETWORK.one_of(("on", "off"), "RT-DETR with FINE: whether it knows where cells are."),
]
FineCosformerOption = Annotated[
    str | None, NETWORK.one_of(("on", "off"), "RT-DETR with FINE: cosFormer's weights of cells.")
]
FineUpsamplingOption = Annotated[
    str | None,
    NETWORK.one_of(("bilinear", "nearest"), "RT-DETR with FINE: how maps grow before a join."),
]
BatchOption = Annotated[
    str,
    ENGINES.option("Batch sizes of engines: one, smallest,largest, or smallest,fastest,largest."),
]
WorkspaceOption = Annotated[
    str | None, ENGINES.option("Engines: scratch memory of the builder at most, e.g. 2GiB.")
]
TimingCacheOption = Annotated[
    Path | None, ENGINES.option("TensorRT: file of measured kernels; makes the next build faster.")
]


def check_pictures(source: Path | None) -> list[str]:
    """Refuse what is neither a picture nor a folder of some; a note, or none, on the files that
    are passed over. Raises :class:`ImageError`."""
    if source is None:
        return []
    from anydepth_deploy.pictures.folders import contents_of

    note = contents_of(source).note
    return [] if note is None else [note]
