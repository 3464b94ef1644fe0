"""Which families there are, whose a network is, and what bad packages get."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from installed_families import forget, write_package

from anydepth_deploy.errors import BundleError, CheckpointError, UsageError
from anydepth_deploy.families import registry
from anydepth_deploy.families.family import Family, Refusal, Shapes

Install = Callable[..., None]

NAMES = tuple(registry.BUILT_IN)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a package with entry points, and a module `families_of_the_tests`, before this
    process."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "families_of_the_tests", raising=False)
    forget()

    def call(*entries: str, code: str = "", name: str = "of-the-tests") -> None:
        write_package(tmp_path, *entries, name=name)
        (tmp_path / "families_of_the_tests.py").write_text(code)
        forget()

    yield call
    sys.modules.pop("families_of_the_tests", None)
    forget()


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Adds a family that answers every network alike."""

    def call(answer: object) -> None:
        found = {name: registry.find_family(name) for name in registry.names()}
        found["other"] = dataclasses.replace(
            found["anydepth-detr"], name="other", recognise=lambda shapes: answer
        )
        monkeypatch.setattr(registry, "names", lambda: tuple(found))
        monkeypatch.setattr(registry, "find_family", found.__getitem__)

    return call


def test_looking_at_families_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from anydepth_deploy.families import registry\n"
        "for name in registry.names():\n"
        "    family = registry.find_family(name)\n"
        "    family.recognise({'a': (1,)})\n"
        "    family.outputs.tolerances((64, 64), 'fp32')\n"
        "found = {'torch', 'onnx', 'scipy'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_families_say_who_they_are() -> None:
    listed: list[str] = []
    for name in registry.BUILT_IN:
        family = registry.find_family(name)
        assert family.name == name
        assert family.title.lower() == name
        assert all(config.name == size for size, config in family.sizes.items())
        model = family.build(family.sizes["tiny"])
        assert model.family == name
        listed += family.size_names
    assert {"r50", "yolo-s"} < set(listed)
    assert len(set(listed)) == len(listed)


def shapes(**more: tuple[int, ...]) -> Shapes:
    """Those of a static RT-DETR, as far as that is told."""
    return {"backbone.conv1.weight": (64,), "decoder.decoder.layers.0.norm1.weight": (256,), **more}


def test_a_refusal_counts_after_all_were_asked(other: Callable[[object], None]) -> None:
    with pytest.raises(CheckpointError, match=r"^an RT-DETR without"):
        registry.recognise(shapes(), "checkpoint c.pth")
    other("its configuration")
    family, config = registry.recognise(shapes(), "checkpoint c.pth")
    assert (family.name, config) == ("other", "its configuration")


def test_all_refusals_are_told(other: Callable[[object], None]) -> None:
    other(Refusal("one of mine, but too old"))
    with pytest.raises(CheckpointError, match=r"^an RT-DETR without .*; one of mine, but too old$"):
        registry.recognise(shapes(), "checkpoint c.pth")


def test_a_network_of_two_families_is_nobodys(other: Callable[[object], None]) -> None:
    detr: Family = registry.find_family("anydepth-detr")
    model = detr.build(detr.sizes["tiny"])
    found = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert registry.recognise(found, "c")[0] is detr
    other("its configuration")
    with pytest.raises(CheckpointError, match="c: the families anydepth-detr and other both take"):
        registry.recognise(found, "c")


def test_an_unknown_family_of_a_bundle() -> None:
    with pytest.raises(
        BundleError, match=r"'imaginary', which is not known here .anydepth-detr or"
    ):
        registry.find_outputs("imaginary")
    with pytest.raises(UsageError, match="unknown family 'imaginary': choose one of anydepth-detr"):
        registry.find_family("imaginary")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (
            "import there_is_no_such_module",
            "ModuleNotFoundError: No module",
        ),
        ("raise RuntimeError('one\\ntwo')", "RuntimeError: one"),
        ("raise RuntimeError", "RuntimeError: no message"),
        ("", "AttributeError"),
    ],
)
def test_a_package_that_cannot_be_imported(install: Install, code: str, told: str) -> None:
    install("mine = families_of_the_tests:FAMILY", code=code)
    assert registry.names() == (*registry.BUILT_IN, "mine")
    with pytest.raises(UsageError) as caught:
        registry.find_family("mine")
    message = str(caught.value)
    assert message.startswith(
        "the family 'mine' of of-the-tests cannot be loaded from 'families_of"
    )
    assert told in message
    assert "\n" not in message
    with pytest.raises(UsageError, match="cannot be loaded"):
        registry.find_training("mine")
    # It stands in nobody's way, but is named where nobody knows the network.
    detr = registry.find_family("anydepth-detr")
    model = detr.build(detr.sizes["tiny"])
    found = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert registry.recognise(found, "c")[0] is detr
    with pytest.raises(CheckpointError, match=r"known any-depth detector.*the family 'mine' of of"):
        registry.recognise({"a": (1,)}, "c")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("FAMILY = 3", "is int, expected a Family of that name"),
        (
            "from anydepth_deploy.families.yolo import FAMILY",
            "is the family 'anydepth-yolo', expected a Family of that name",
        ),
    ],
)
def test_an_entry_point_gives_a_family_of_its_name(install: Install, code: str, told: str) -> None:
    install("mine = families_of_the_tests:FAMILY", code=code)
    with pytest.raises(UsageError, match=told):
        registry.find_family("mine")


def test_what_can_be_trained_is_told_without_what_is_broken(install: Install) -> None:
    install("broken = families_of_the_tests:FAMILY")
    load = registry._load

    def untrained(entry: EntryPoint) -> Family:
        found = load(entry)
        return dataclasses.replace(found, training=None) if found.name == NAMES[1] else found

    able = [name for name in NAMES if registry.find_family(name).training is not None]
    able.remove(NAMES[1])
    assert able[0] == NAMES[0]
    told = f"family '{NAMES[1]}' cannot be trained: choose one of {', '.join(able)}$"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_load", untrained)
        with pytest.raises(UsageError, match=told):
            registry.find_training(NAMES[1])
        assert registry.find_training(NAMES[0]).clip > 0


def test_a_name_is_given_once(install: Install) -> None:
    install("anydepth-yolo = families_of_the_tests:FAMILY", name="first-package")
    install("mine = families_of_the_tests:FAMILY", name="second-package")
    install("mine = families_of_the_tests:FAMILY", name="third-package")
    assert registry.names() == (*registry.BUILT_IN, "mine")
    with pytest.raises(UsageError, match="'anydepth-yolo' is given twice, by anydepth-deploy and"):
        registry.find_family("anydepth-yolo")
    with pytest.raises(UsageError, match=r"'mine' is given twice, by .*-package and by .*: unins"):
        registry.find_family("mine")
    assert registry.find_family("anydepth-detr").name == "anydepth-detr"
    with pytest.raises(CheckpointError, match=r"known any-depth.*-yolo' is given twice.*'mine' is"):
        registry.recognise({"a": (1,)}, "c")
