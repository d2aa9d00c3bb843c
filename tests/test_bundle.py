"""Bundles: what is written is read, what was altered is refused, and what ONNX models become."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certserve import bundle
from certserve.bundle import Bundle, Defaults, Execution
from certserve.errors import BundleError

SHAPE = (3, 2, 4)
LABELS = ("cat", "dog", "none of these")
WEIGHTS = np.sin(np.arange(72.0)).reshape(3, 24)
BIAS = np.array([0.0, 0.5, -0.25])
HALF: Any = 2.5


def linear(directory: Path, **changes: Any) -> Bundle:
    facts: dict[str, Any] = {
        "name": "tiny",
        "weights": WEIGHTS,
        "bias": BIAS,
        "shape": SHAPE,
        "labels": LABELS,
        "sigmas": (0.25, 1),
    }
    return bundle.write_linear(directory, **(facts | changes))


@pytest.fixture
def stored(tmp_path: Path) -> Bundle:
    return linear(tmp_path / "tiny", description="A test.", resize=9, provenance={"paper": "none", "a b": "c"})


def edit(found: Bundle, pattern: str, replacement: str) -> None:
    """Change model.toml, in exactly one place."""
    manifest = found.path / "model.toml"
    text, places = re.subn(pattern, lambda _: replacement, manifest.read_text("utf-8"), flags=re.MULTILINE)
    assert places == 1
    manifest.write_text(text, "utf-8")


class TestRoundTrip:
    def test_what_is_written_is_read(self, stored: Bundle) -> None:
        assert bundle.read(stored.path) == stored
        assert stored == Bundle(
            path=stored.path,
            name="tiny",
            version="1",
            description="A test.",
            labels=LABELS,
            shape=SHAPE,
            colour="rgb",
            resize=9,
            sigmas=(0.25, 1.0),
            defaults=Defaults(sigma=0.25, n0=100, n=10_000, alpha=0.001, predict_n=1_000),
            executions=(Execution("float64", "weights.npz", "linear", "float64"),),
            digests={"weights.npz": hashlib.sha256((stored.path / "weights.npz").read_bytes()).hexdigest()},
            provenance={"paper": "none", "a b": "c"},
        )

    def test_the_weights_are_the_arrays(self, stored: Bundle) -> None:
        assert stored.executions[0].file == "weights.npz"
        with np.load(stored.file("weights.npz"), allow_pickle=False) as arrays:
            assert set(arrays.files) == {"weights", "bias"}
            assert arrays["weights"].dtype == arrays["bias"].dtype == np.float64
            assert np.array_equal(arrays["weights"], WEIGHTS)
            assert np.array_equal(arrays["bias"], BIAS)

    def test_the_same_arrays_give_the_same_digest(self, stored: Bundle, tmp_path: Path) -> None:
        assert linear(tmp_path / "again").digests == stored.digests

    def test_numpy_numbers_are_numbers(self, tmp_path: Path) -> None:
        found = linear(
            tmp_path / "x",
            shape=tuple(np.array(SHAPE)),
            sigmas=np.array([0.5, 1.0]),
            defaults=Defaults(np.float64(1), n=5, alpha=np.float64(0.125)),
        )
        assert (found.shape, found.sigmas, found.defaults) == (SHAPE, (0.5, 1.0), Defaults(1.0, n=5, alpha=0.125))

    def test_several_executions(self, tmp_path: Path) -> None:
        executions = [Execution("fast", "a b.onnx", "onnx", "int8"), Execution("exact", "ü.npz", "linear", "float64")]
        files = {"a b.onnx": b"1", "ü.npz": b"2", "NOTICE": b"3"}
        found = bundle.write(
            tmp_path / "two",
            files,
            name="two",
            labels=LABELS,
            shape=(1, 2, 2),
            sigmas=[0.5],
            executions=executions,
        )
        assert found.executions == tuple(executions)
        assert found.executions[0].name == "fast"
        assert found.colour == "grey"
        assert {name: found.file(name).read_bytes() for name in found.digests} == files
        with pytest.raises(BundleError, match=r"has no file 'c'; its files are a b.onnx, ü.npz, NOTICE"):
            found.file("c")

    texts = st.text(max_size=20)
    words = texts.filter(lambda text: bool(text.strip()))

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        words,
        words,
        texts,
        st.lists(words, min_size=3, max_size=3),
        st.dictionaries(texts, texts, max_size=3),
        st.lists(st.floats(5e-324, 1e308), min_size=1, max_size=3, unique=True),
        st.floats(5e-324, 1, exclude_max=True),
    )
    def test_odd_texts_and_numbers(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        name: str,
        version: str,
        description: str,
        labels: list[str],
        provenance: dict[str, str],
        sigmas: list[float],
        alpha: float,
    ) -> None:
        found = linear(
            tmp_path_factory.mktemp("odd") / "bundle",
            name=name,
            version=version,
            description=description,
            labels=labels,
            provenance=provenance,
            sigmas=sigmas,
            defaults=Defaults(sigmas[-1], alpha=alpha),
        )
        assert (found.name, found.version, found.description) == (name, version, description)
        assert (found.labels, found.provenance, found.sigmas) == (tuple(labels), provenance, tuple(sigmas))
        assert (found.defaults.sigma, found.defaults.alpha) == (sigmas[-1], alpha)

    @pytest.mark.parametrize(
        "text", ['"', "\\", "\\u0041", "\n\r\t\b\f", "\x00\x1f\x7f\x85\u2028", '"""', "'''", "# x", "😀"]
    )
    def test_texts_that_end_strings(self, text: str, tmp_path: Path) -> None:
        found = linear(tmp_path / "x", name=f"a{text}", provenance={text: text})
        assert found.name == f"a{text}"
        assert found.provenance == {text: text}

    def test_broken_unicode_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="not valid Unicode"):
            linear(tmp_path / "x", description="\ud800")
        assert not (tmp_path / "x").exists()


class TestWriting:
    def test_all_or_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(BundleError, match=r"cannot be written \(No space left on device\); choose another"):
            linear(tmp_path / "x")
        assert list(tmp_path.iterdir()) == []

    def test_only_the_bundle_is_left(self, stored: Bundle) -> None:
        assert [path.name for path in stored.path.parent.iterdir()] == ["tiny"]
        assert sorted(path.name for path in stored.path.iterdir()) == ["model.toml", "weights.npz"]

    def test_others_may_read_it(self, stored: Bundle) -> None:
        mask = os.umask(0)
        os.umask(mask)
        assert stored.path.stat().st_mode & 0o777 == 0o777 & ~mask

    def test_nothing_is_overwritten(self, stored: Bundle, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="tiny is not empty; choose another directory, or remove it first"):
            linear(stored.path, name="other")
        assert bundle.read(stored.path) == stored
        (tmp_path / "file").write_text("kept")
        with pytest.raises(BundleError, match="cannot be written"):
            linear(tmp_path / "file")
        assert (tmp_path / "file").read_text() == "kept"

    def test_an_empty_directory_and_missing_parents_will_do(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        assert linear(tmp_path / "empty").name == "tiny"
        assert linear(tmp_path / "a" / "b" / "c").name == "tiny"

    def test_in_the_current_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert linear(Path("x")) == bundle.read(Path("x"))
        (tmp_path / "empty").mkdir()
        Path("link").symlink_to("empty")
        assert linear(Path("link")) == bundle.read(Path("link"))
        assert (tmp_path / "empty" / "model.toml").is_file()
        (tmp_path / "here").mkdir()
        monkeypatch.chdir("here")
        with pytest.raises(BundleError, match="is the current directory; name a new one"):
            linear(Path())

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"name": " "}, "the model must have a name that is not blank"),
            ({"version": ""}, "the model must have a version that is not blank"),
            ({"labels": ("a", "b", "\n")}, "labels must name at least two classes, none of them blank"),
            ({"labels": ("a",), "weights": WEIGHTS[:1], "bias": BIAS[:1]}, "labels must name at least two classes"),
            ({"labels": ("a", "b")}, r"expected weights \(2, 24\) and bias \(2,\) .* not \(3, 24\) and \(3,\)"),
            ({"shape": (3, 2, 5)}, r"expected weights \(3, 30\)"),
            ({"shape": (2, 3, 4)}, r"images have 1 \(grey\) or 3 \(rgb\) channels; a model with 2 cannot"),
            ({"shape": (3, -2, -4)}, "each at least 1"),
            ({"colour": "grey"}, r"grey \(1 channels\), rgb \(3 channels\), bgr .* not 'grey' with 3 channels"),
            ({"colour": "cmyk"}, "not 'cmyk' with 3"),
            ({"colour": ""}, "not '' with 3"),
            ({"resize": 3}, "resize must be at least the model's height and width, not 3"),
            ({"sigmas": ()}, "sigmas must be one or more positive numbers"),
            ({"sigmas": (0.0,)}, "sigmas must be one or more positive numbers"),
            ({"sigmas": (0.5, math.inf)}, "sigmas must be one or more positive numbers"),
            ({"sigmas": (math.nan,)}, "sigmas must be one or more positive numbers"),
            ({"sigmas": (0.5, 0.5)}, "sigmas must differ"),
            ({"defaults": Defaults(0.3)}, r"the default sigma must be one of \(0.25, 1.0\), not 0.3"),
            ({"defaults": Defaults(0.25, n0=HALF)}, "defaults.n0 must be an integer, not 2.5"),
        ],
    )
    def test_values_out_of_range(self, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=message):
            linear(tmp_path / "x", **changes)
        assert list(tmp_path.iterdir()) == []

    def test_every_colour_order(self, tmp_path: Path) -> None:
        assert linear(tmp_path / "x", colour="bgr").colour == "bgr"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"n0": 0}, r"the default n0 must lie in 1..10000000, not 0"),
            ({"n": 10_000_001}, "the default n must lie in 1..10000000, not 10000001"),
            ({"predict_n": -1}, "the default predict_n must lie in"),
            ({"alpha": 0.0}, "the default alpha must lie strictly between 0 and 1, not 0.0"),
            ({"alpha": 1.0}, "the default alpha must lie strictly between 0 and 1, not 1.0"),
            ({"alpha": math.nan}, "the default alpha must lie strictly between 0 and 1, not nan"),
        ],
    )
    def test_defaults(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(BundleError, match=message):
            Defaults(0.25, **changes)
        Defaults(0.25, n0=1, n=10_000_000, predict_n=10_000_000, alpha=5e-324)

    @pytest.mark.parametrize(
        "name", ["", ".", "..", "/etc/passwd", "a/b", "../a", "a/", "a\\b", "model.toml", "a\0b", "a\n"]
    )
    def test_file_names(self, name: str, stored: Bundle) -> None:
        message = "under plain names"
        with pytest.raises(BundleError, match=message):
            Execution("e", name, "onnx", "float32")
        with pytest.raises(BundleError, match=message):
            dataclasses.replace(stored, digests={**stored.digests, name: "0" * 64})

    def test_executions(self, stored: Bundle) -> None:
        (execution,) = stored.executions
        with pytest.raises(BundleError, match="an execution must have a runtime that is not blank"):
            dataclasses.replace(execution, runtime="")
        with pytest.raises(BundleError, match="executions must be one or more with different names"):
            dataclasses.replace(stored, executions=())
        with pytest.raises(BundleError, match="executions must be one or more with different names"):
            dataclasses.replace(stored, executions=(execution, execution))
        with pytest.raises(BundleError, match=r"'float64' names 'weights.npz', which has no digest"):
            dataclasses.replace(stored, digests={})


class TestReading:
    def refused(self, found: Bundle, message: str) -> None:
        with pytest.raises(BundleError, match=message) as caught:
            bundle.read(found.path)
        assert str(found.path) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_no_directory(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="x: there is no such directory; give the path of a bundle"):
            bundle.read(tmp_path / "x")

    def test_no_manifest(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"has no model.toml, so it is no bundle; give the path of one"):
            bundle.read(tmp_path)

    def test_manifest_that_is_no_file(self, tmp_path: Path) -> None:
        (tmp_path / "model.toml").mkdir()
        with pytest.raises(BundleError, match=r"model.toml cannot be read \(Is a directory\)"):
            bundle.read(tmp_path)

    @pytest.mark.parametrize(
        "text", [b"name = ", b"\xff", b"a = " + b"[" * 100_000, b"a = " + b"9" * 10_000, b"a=1\na=2"]
    )
    def test_no_toml(self, text: bytes, stored: Bundle) -> None:
        (stored.path / "model.toml").write_bytes(text)
        self.refused(stored, r"model.toml is not valid TOML \(.*\); correct it or create the bundle again")

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_a_manifest_cut_or_changed_anywhere_raises_nothing_else(self, stored: Bundle, draw: st.DataObject) -> None:
        manifest = stored.path / "model.toml"
        text = manifest.read_bytes()
        place = draw.draw(st.integers(0, len(text) - 1))
        change = draw.draw(st.sampled_from([b"", b'"', b"[", b"x = 1\n", b"0", b"-", b"\n"]))
        try:
            manifest.write_bytes(text[:place] + change + (text[place + 1 :] if change else b""))
            bundle.read(stored.path)
        except BundleError:
            pass
        finally:
            manifest.write_bytes(text)

    @pytest.mark.parametrize(
        ("pattern", "replacement", "message"),
        [
            (r"^format = 1$", "format = 2", "another version of certserve wrote this bundle"),
            (r"^format = 1$", "format = true", "format must be an integer, not True"),
            (r'^name = "tiny"$', "", "model.toml has no name, a string; add it"),
            (r'^name = "tiny"$', "name = 7", "name must be a string, not 7"),
            (r'^name = "tiny"$', 'nmae = "x"', "model.toml has no name"),
            (r'^name = "tiny"', 'nick = "x"\nname = "x"', "model.toml has an unknown key 'nick'; correct or remove it"),
            (r"^shape = ", "mean = 0\nshape = ", "unknown key 'input.mean'"),
            (r"^shape = .*$", "shape = [3, 2]", r"input.shape must be \[channels, height, width\], not \[3, 2\]"),
            (r"^shape = .*$", "shape = [3, 2, 4.0]", "every entry of input.shape must be an integer, not 4.0"),
            (r"^shape = .*$", "shape = [3, 0, 4]", "each at least 1"),
            (r"^shape = .*$", 'shape = "324"', "input.shape must be an array, not '324'"),
            (r"^resize = .*$", "resize = false", "input.resize must be an integer, not False"),
            (r"^colour = .*$", 'colour = "hsv"', "colour must be one of"),
            (r"^sigmas = .*$", "sigmas = [0.25, -1]", "sigmas must be one or more positive numbers"),
            (r"^sigmas = .*$", "sigmas = [0.25, inf]", "sigmas must be one or more positive numbers"),
            (r"^sigmas = .*$", f"sigmas = [0.25, 1{'0' * 400}]", "every entry of sigmas must be a number, not 1000"),
            (r"^sigmas = .*$", "sigmas = 0.25", "sigmas must be an array, not 0.25"),
            (r"^sigmas = .*$", "sigmas = [true]", "every entry of sigmas must be a number, not True"),
            (r"^sigma = .*$", "sigma = 0.5", "the default sigma must be one of"),
            (r"^n0 = .*$", "n0 = 0", "the default n0 must lie in"),
            (r"^n0 = ", "n1 = 5\nn0 = ", "unknown key 'defaults.n1'"),
            (r"^alpha = .*$", "alpha = 1", "the default alpha must lie strictly"),
            (r'^    "cat",$', '    "",', "labels must name at least two classes"),
            (r'^    "cat",$', "    1979-05-27,", "every entry of labels must be a string"),
            (r"^runtime = ", "device = 'cpu'\nruntime = ", "unknown key 'executions.device'"),
            (r"^precision = .*$", "", "model.toml has no executions.precision, a string; add it"),
            (r"^file = .*$", "file = '../weights.npz'", "under plain names; '../weights.npz' is none"),
            (r"^file = .*$", "file = 'other.npz'", "names 'other.npz', which has no digest"),
            (r"^\"weights.npz\" = \"", '"weights.npz" = "0', "must be a SHA-256 in lower-case hexadecimal"),
            (r"^\"weights.npz\" = \".", '"weights.npz" = "F', "must be a SHA-256 in lower-case hexadecimal"),
            (r"^\"weights.npz\" = ", f'"gone" = "{"0" * 64}"\n"weights.npz" = ', "gone is missing, or no plain file"),
            (r'^"paper" = .*$', '"paper" = 3', "provenance.paper must be a string, not 3"),
            (r"^\[provenance\]$", "[provenence]", "model.toml has no provenance, a table; add it"),
        ],
    )
    def test_manifests(self, pattern: str, replacement: str, message: str, stored: Bundle) -> None:
        edit(stored, pattern, replacement)
        self.refused(stored, message)

    def test_whole_numbers_are_numbers(self, stored: Bundle) -> None:
        edit(stored, r"^sigmas = .*$", "sigmas = [0.25, 2]")
        assert bundle.read(stored.path).sigmas == (0.25, 2.0)

    def test_resize_may_be_missing(self, stored: Bundle) -> None:
        edit(stored, r"^resize = .*$", "")
        assert bundle.read(stored.path).resize is None

    @pytest.mark.parametrize("place", [0, -1])
    def test_altered_weights(self, place: int, stored: Bundle) -> None:
        file = stored.path / "weights.npz"
        contents = bytearray(file.read_bytes())
        contents[place] ^= 1
        file.write_bytes(contents)
        self.refused(stored, r"weights.npz does not match its digest; the bundle is damaged or was altered")

    def test_cut_weights(self, stored: Bundle) -> None:
        file = stored.path / "weights.npz"
        file.write_bytes(file.read_bytes()[:-1])
        self.refused(stored, "does not match its digest")

    def test_missing_weights(self, stored: Bundle) -> None:
        (stored.path / "weights.npz").unlink()
        self.refused(stored, r"weights.npz is missing, or no plain file; fetch or create the bundle again")

    def test_a_pipe_is_not_waited_for(self, stored: Bundle) -> None:
        (stored.path / "weights.npz").unlink()
        os.mkfifo(stored.path / "weights.npz")
        self.refused(stored, "no plain file")

    def test_links(self, stored: Bundle) -> None:
        file = stored.path / "weights.npz"
        outside = stored.path.parent / "outside.npz"
        file.rename(outside)
        file.symlink_to(outside)
        self.refused(stored, "is a link that leaves the bundle; put a copy of the file there")
        file.unlink()
        outside.rename(stored.path / "real.npz")
        file.symlink_to("real.npz")
        assert bundle.read(stored.path) == stored
        file.unlink()
        file.symlink_to("weights.npz")
        self.refused(stored, "cannot be read|is missing")

    def test_a_linked_directory_is_as_good_as_its_target(self, stored: Bundle, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(stored.path)
        assert bundle.read(tmp_path / "link") == dataclasses.replace(stored, path=tmp_path / "link")

    def test_no_runtime_is_needed(self, stored: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        for runtime in ("onnx", "onnxruntime", "torch"):
            monkeypatch.setitem(__import__("sys").modules, runtime, None)
        assert bundle.read(stored.path) == stored
        with pytest.raises(BundleError, match=r"needs the package onnx to be read; install certserve\[server\]"):
            bundle.create(stored.file("weights.npz"), stored.path / "x", name="x", labels=LABELS, sigmas=[1])


Arrays = dict[str, npt.NDArray[Any]]
FLOAT, DOUBLE = 1, 11  # TensorProto's numbers


class Graphs:
    """ONNX models of the linear classifier above, whole or spoilt."""

    def __init__(self, folder: Path) -> None:
        self.onnx = pytest.importorskip("onnx")
        self._folder = folder

    def node(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Any:
        return self.onnx.helper.make_node(op, inputs, outputs, **attributes)

    def value(self, name: str, shape: Sequence[int | str | None] | None, element: int = FLOAT) -> Any:
        return self.onnx.helper.make_tensor_value_info(name, element, shape)

    def model(
        self,
        *,
        inputs: Sequence[Any] | None = None,
        nodes: Sequence[Any] | None = None,
        outputs: Sequence[Any] | None = None,
        arrays: Arrays | None = None,
        opset: int = 13,
        ir: int = 8,
    ) -> Any:
        stored = {"W": WEIGHTS.astype(np.float32), "b": BIAS.astype(np.float32)} | (arrays or {})
        usual = [self.node("Flatten", ["x"], ["flat"]), self.node("Gemm", ["flat", "W", "b"], ["y"], transB=1)]
        graph = self.onnx.helper.make_graph(
            usual if nodes is None else nodes,
            "tiny",
            [self.value("x", ["batch", *SHAPE])] if inputs is None else inputs,
            [self.value("y", ["batch", 3])] if outputs is None else outputs,
            [self.onnx.numpy_helper.from_array(array, name) for name, array in stored.items()],
        )
        opsets = [self.onnx.helper.make_opsetid("", opset)]
        return self.onnx.helper.make_model(graph, opset_imports=opsets, ir_version=ir)

    def save(self, model: Any) -> Path:
        path = self._folder / "source.onnx"
        path.write_bytes(model.SerializeToString())
        return path


@pytest.fixture
def graphs(tmp_path: Path) -> Graphs:
    return Graphs(tmp_path)


MEAN, STD = [0.5, 0.25, 0.125], [0.2, 0.4, 0.8]
PIXELS = np.random.default_rng(7).random((5, *SHAPE), dtype=np.float32)


def run(file: Path, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    return np.asarray(session.run(None, {source.name: pixels})[0])


def create(model: Path, **changes: Any) -> Bundle:
    facts: dict[str, Any] = {"name": "made", "labels": LABELS, "sigmas": [0.5, 0.25]}
    return bundle.create(model, model.parent / "made", **(facts | changes))


class TestCreate:
    def test_facts(self, graphs: Graphs) -> None:
        source = graphs.save(graphs.model())
        made = create(source, version="2", description="d", resize=8, provenance={"by": "us"})
        assert bundle.read(made.path) == made
        assert (made.name, made.version, made.description, made.resize) == ("made", "2", "d", 8)
        assert (made.labels, made.shape, made.colour, made.sigmas) == (LABELS, SHAPE, "rgb", (0.5, 0.25))
        assert made.defaults == Defaults(0.5, n0=100, n=10_000, alpha=0.001, predict_n=1_000)
        assert made.executions == (
            Execution("float32", "model.onnx", "openvino", "float32"),
            Execution("bfloat16", "model.onnx", "openvino", "bfloat16"),
            Execution("onnxruntime-float32", "model.onnx", "onnx", "float32"),
            Execution("onnxruntime-cuda-float32", "model.onnx", "onnx-cuda", "float32"),
        )
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        assert made.provenance == {"by": "us", "source": "source.onnx", "source_sha256": digest}

    def test_what_was_measured_wins(self, graphs: Graphs) -> None:
        made = create(graphs.save(graphs.model()), provenance={"source": "elsewhere", "by": "us"})
        assert (made.provenance["source"], made.provenance["by"]) == ("source.onnx", "us")

    def test_overrides(self, graphs: Graphs) -> None:
        made = create(graphs.save(graphs.model()), colour="bgr", defaults=Defaults(0.25, n=7))
        assert (made.colour, made.defaults) == ("bgr", Defaults(0.25, n=7))

    def test_without_normalisation_the_graph_stays_what_it_was(self, graphs: Graphs) -> None:
        model = graphs.model()
        made = create(graphs.save(model))
        assert graphs.onnx.load(made.file("model.onnx")) == model

    def check_normalised(self, source: Path, **changes: Any) -> Any:
        """Create with a normalisation; it must equal numpy's followed by the original."""
        made = create(source, mean=MEAN, std=STD, **changes)
        mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (MEAN, STD))
        expected = run(source, (PIXELS - mean) / std)
        found = run(made.file("model.onnx"), PIXELS)
        assert np.abs(found - expected).max() <= 1e-5
        assert np.abs(run(source, PIXELS) - expected).max() > 0.1
        assert made.provenance["mean"] == "[0.5, 0.25, 0.125]"
        assert made.provenance["std"] == "[0.2, 0.4, 0.8]"
        import onnx

        return onnx.load(made.file("model.onnx"))

    def test_normalisation_is_inside(self, graphs: Graphs) -> None:
        model = self.check_normalised(graphs.save(graphs.model()))
        assert [value.name for value in model.graph.input] == ["x"]
        assert [node.op_type for node in model.graph.node] == ["Sub", "Div", "Flatten", "Gemm"]
        assert [entry.version for entry in model.opset_import] == [13]
        assert {tuple(tensor.dims) for tensor in model.graph.initializer[2:]} == {(1, 3, 1, 1)}

    def test_every_consumer_gets_the_normalised_input(self, graphs: Graphs) -> None:
        nodes = [
            graphs.node("Flatten", ["x"], ["left"]),
            graphs.node("Add", ["x", "x"], ["twice"]),
            graphs.node("Flatten", ["twice"], ["right"]),
            graphs.node("Add", ["left", "right"], ["flat"]),
            graphs.node("Gemm", ["flat", "W", "b"], ["y"], transB=1),
        ]
        self.check_normalised(graphs.save(graphs.model(nodes=nodes)))

    def test_a_consumer_in_a_nested_graph_does_too(self, graphs: Graphs) -> None:
        branches = {
            f"{name}_branch": graphs.onnx.helper.make_graph(
                [graphs.node(op, ["x"], [name])], name, [], [graphs.value(name, ["batch", *SHAPE])]
            )
            for name, op in (("then", "Identity"), ("else", "Neg"))
        }
        nodes = [
            graphs.node("If", ["yes"], ["chosen"], **branches),
            graphs.node("Flatten", ["chosen"], ["flat"]),
            graphs.node("Gemm", ["flat", "W", "b"], ["y"], transB=1),
        ]
        self.check_normalised(graphs.save(graphs.model(nodes=nodes, arrays={"yes": np.array(True)})))

    def test_names_that_are_taken(self, graphs: Graphs) -> None:
        branch = [graphs.node("Neg", ["certserve_normalised"], ["certserve_std"])]
        inner = graphs.onnx.helper.make_graph(branch, "b", [], [graphs.value("certserve_std", None)])
        other = [graphs.node("Identity", ["certserve_normalised"], ["certserve_mean_"])]
        outer = graphs.onnx.helper.make_graph(other, "c", [], [graphs.value("certserve_mean_", None)])
        nodes = [
            graphs.node("Flatten", ["x"], ["certserve_normalised"]),
            graphs.node("If", ["yes"], ["flat"], then_branch=inner, else_branch=outer),
            graphs.node("Gemm", ["flat", "W", "certserve_mean"], ["y"], transB=1, name="certserve_centred"),
        ]
        arrays = {"yes": np.array(True), "certserve_mean": BIAS.astype(np.float32)}
        self.check_normalised(graphs.save(graphs.model(nodes=nodes, arrays=arrays)))

    def test_old_files_list_initialisers_among_the_inputs(self, graphs: Graphs) -> None:
        inputs = [graphs.value("x", ["batch", *SHAPE]), graphs.value("W", [3, 24]), graphs.value("b", [3])]
        model = self.check_normalised(graphs.save(graphs.model(inputs=inputs, ir=3, opset=7)))
        assert model.ir_version == 3

    def test_opset_too_old(self, graphs: Graphs) -> None:
        source = graphs.save(graphs.model(opset=6))
        with pytest.raises(BundleError, match="is of opset 6, too old for a normalisation; export it with opset 13"):
            create(source, mean=MEAN, std=STD)

    @pytest.mark.parametrize(
        ("mean", "std", "message"),
        [
            (MEAN, None, "needs both mean and std"),
            (None, STD, "needs both mean and std"),
            (MEAN[:1], STD, "has 3 channels, but 1 means and 3 stds were given"),
            (MEAN, [1.0] * 4, "has 3 channels, but 3 means and 4 stds were given"),
            (MEAN, [0.2, 0.0, 0.2], "needs finite means and positive stds"),
            (MEAN, [0.2, -1.0, 0.2], "needs finite means and positive stds"),
            ([math.nan, 0, 0], STD, "needs finite means and positive stds"),
            (MEAN, [math.inf] * 3, "needs finite means and positive stds"),
        ],
    )
    def test_normalisations(self, mean: Any, std: Any, message: str, graphs: Graphs) -> None:
        source = graphs.save(graphs.model())
        with pytest.raises(BundleError, match=re.escape(str(source)) + " " + message):
            create(source, mean=mean, std=std)
        assert not (source.parent / "made").exists()

    def test_external_data_is_folded_in(self, graphs: Graphs) -> None:
        source = graphs.save(graphs.model())
        expected = run(source, PIXELS)
        graphs.onnx.save(graphs.model(), source, save_as_external_data=True, location="weights.bin", size_threshold=0)
        assert (source.parent / "weights.bin").is_file()
        made = create(source)
        (source.parent / "weights.bin").unlink()
        assert sorted(path.name for path in made.path.iterdir()) == ["model.onnx", "model.toml"]
        assert np.array_equal(run(made.file("model.onnx"), PIXELS), expected)

    def test_missing_external_data(self, graphs: Graphs) -> None:
        source = graphs.save(graphs.model())
        graphs.onnx.save(graphs.model(), source, save_as_external_data=True, location="weights.bin", size_threshold=0)
        (source.parent / "weights.bin").unlink()
        with pytest.raises(BundleError, match="is not a valid ONNX model"):
            create(source)

    @pytest.mark.parametrize("batch", [1, 8])
    def test_fixed_batch(self, batch: int, graphs: Graphs) -> None:
        source = graphs.save(graphs.model(inputs=[graphs.value("x", [batch, *SHAPE])]))
        with pytest.raises(BundleError, match=rf"has its batch axis fixed at {batch}; export it again .*dynamic_axes"):
            create(source)

    @pytest.mark.parametrize("batch", ["N", None])
    def test_free_batch_with_or_without_a_name(self, batch: str | None, graphs: Graphs) -> None:
        assert create(graphs.save(graphs.model(inputs=[graphs.value("x", [batch, *SHAPE])]))).shape == SHAPE

    def test_symbolic_shape(self, graphs: Graphs) -> None:
        source = graphs.save(graphs.model(inputs=[graphs.value("x", ["n", 3, "h", None])]))
        with pytest.raises(BundleError, match=r"leaves the input's axes \[3, None, None\] open; say the shape"):
            create(source)
        with pytest.raises(BundleError, match=r"shape \[3, None, None\], which contradicts the shape \(1, 2, 4\)"):
            create(source, shape=(1, 2, 4))
        made = create(source, shape=SHAPE)
        assert made.shape == SHAPE
        dims = graphs.onnx.load(made.file("model.onnx")).graph.input[0].type.tensor_type.shape.dim
        assert [dim.dim_value for dim in dims[1:]] == [*SHAPE]
        assert not dims[0].HasField("dim_value")

    def test_a_shape_that_the_graph_knows_already(self, graphs: Graphs) -> None:
        source = graphs.save(graphs.model())
        with pytest.raises(BundleError, match="contradicts the shape"):
            create(source, shape=(3, 4, 2))
        assert create(source, shape=SHAPE).shape == SHAPE

    @pytest.mark.parametrize("channels", [1, 2, 4])
    def test_channels(self, channels: int, graphs: Graphs) -> None:
        weights = np.ones((3, channels * 8), np.float32)
        source = graphs.save(graphs.model(inputs=[graphs.value("x", ["n", channels, 2, 4])], arrays={"W": weights}))
        if channels == 1:
            assert create(source).colour == "grey"
        else:
            with pytest.raises(BundleError, match=rf"a model with {channels} cannot be served"):
                create(source)

    SPOILT: tuple[tuple[Callable[[Graphs], dict[str, Any]], str], ...] = (
        (
            lambda g: {"inputs": [g.value("x", ["n", *SHAPE]), g.value("z", ["n"])]},
            r"has the inputs \['x', 'z'\]; a cl",
        ),
        (lambda g: {"inputs": []}, r"valid ONNX model|has the inputs \[\]"),
        (lambda g: {"inputs": [g.value("x", ["n", *SHAPE], DOUBLE)]}, "an input of element type 11 and 4 axes"),
        (lambda g: {"inputs": [g.value("x", ["n", 24])]}, "an input of element type 1 and 2 axes"),
        (lambda g: {"outputs": [g.value("y", ["n", 4])]}, "has 4 outputs, but 3 labels were given"),
        (lambda g: {"outputs": [g.value("y", ["n", 3, 1])]}, "has a first output of 3 axes; a classifier has one"),
        (lambda g: {"outputs": [g.value("y", ["n", 3], DOUBLE)]}, "has a first output of element type 11"),
        (lambda g: {"nodes": [g.node("Nonsense", ["x"], ["y"])]}, "is not a valid ONNX model"),
    )

    @pytest.mark.parametrize(("spoil", "message"), SPOILT)
    def test_no_classifier(self, spoil: Callable[[Graphs], dict[str, Any]], message: str, graphs: Graphs) -> None:
        source = graphs.save(graphs.model(**spoil(graphs)))
        with pytest.raises(BundleError, match=message) as caught:
            create(source)
        assert str(source) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (source.parent / "made").exists()

    @pytest.mark.parametrize("shape", [None, ["n", "classes"], [None, None]])
    def test_the_graph_need_not_know_its_classes(self, shape: Any, graphs: Graphs) -> None:
        assert create(graphs.save(graphs.model(outputs=[graphs.value("y", shape)]))).labels == LABELS

    def test_the_first_output_counts(self, graphs: Graphs) -> None:
        outputs = [graphs.value("y", ["n", 3]), graphs.value("flat", ["n", 24])]
        made = create(graphs.save(graphs.model(outputs=outputs)))
        assert run(made.file("model.onnx"), PIXELS).shape == (5, 3)
        with pytest.raises(BundleError, match="has 24 outputs, but 3 labels"):
            bundle.create(
                graphs.save(graphs.model(outputs=outputs[::-1])), made.path / "x", name="x", labels=LABELS, sigmas=[1]
            )

    @pytest.mark.parametrize("contents", [b"", b"PK\x03\x04", b"\x08", bytes(range(256))])
    def test_no_onnx_file(self, contents: bytes, graphs: Graphs, tmp_path: Path) -> None:
        (tmp_path / "m.onnx").write_bytes(contents)
        with pytest.raises(BundleError, match=r"is not a valid ONNX model .*; export it again"):
            create(tmp_path / "m.onnx")

    def test_no_file(self, graphs: Graphs, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"m.onnx cannot be read \(No such file or directory\); give the path"):
            create(tmp_path / "m.onnx")


class TestPickles:
    """What pickle and torch.save write is refused by name, and never opened."""

    def check(self, path: Path, contents: bytes) -> str:
        pytest.importorskip("onnx")
        path.write_bytes(contents)
        with pytest.raises(BundleError, match=re.escape(str(path))) as caught:
            create(path)
        assert not (path.parent / "made").exists()
        return str(caught.value)

    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    @pytest.mark.parametrize("name", ["model.pt", "model.onnx"])
    def test_pickles(self, tmp_path: Path, name: str, protocol: int) -> None:
        class Runs:
            def __reduce__(self) -> tuple[Any, tuple[Path]]:
                return Path.touch, (tmp_path / "mark",)

        said = self.check(tmp_path / name, pickle.dumps(Runs(), protocol))
        assert "is a pickle, which can run any code when it is opened" in said
        assert "export the model to ONNX, or to a .pt2 file with torch.export.save" in said
        assert not (tmp_path / "mark").exists()

    def test_an_archive_that_holds_a_pickle(self, tmp_path: Path) -> None:
        """As torch.save has written since 2020; what stands before the archive hides nothing."""
        raw = archive("model/data.pkl", "model/version")
        for contents in (raw, b"#!/bin/sh\n" + raw):
            assert "is a pickle" in self.check(tmp_path / "model.pt", contents)

    def test_what_torch_saves(self, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch")
        for old in (False, True):
            torch.save({"w": torch.ones(2)}, tmp_path / "model.pth", _use_new_zipfile_serialization=not old)
            assert "is a pickle" in self.check(tmp_path / "model.pth", (tmp_path / "model.pth").read_bytes())

    def test_other_archives_are_no_pickles(self, tmp_path: Path) -> None:
        assert "is not a valid ONNX model" in self.check(tmp_path / "model.zip", archive("readme.txt"))

    def test_a_broken_archive_is_one_sentence_too(self, tmp_path: Path) -> None:
        raw = archive("model/data.pkl")
        assert "is not a valid ONNX model" in self.check(tmp_path / "model.pt", raw[-30:])


def archive(*names: str) -> bytes:
    """A zip file of small files."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as files:
        for name in names:
            files.writestr(name, "contents")
    return raw.getvalue()


class TestCreateProgram:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        """No program at all: it is not to be opened."""
        (tmp_path / "source.pt2").write_bytes(b"\x80 anything")
        return tmp_path / "source.pt2"

    def create(self, source: Path, **changes: Any) -> Bundle:
        facts: dict[str, Any] = {"name": "made", "labels": LABELS, "sigmas": [0.5, 0.25], "shape": SHAPE}
        return bundle.create_program(source, source.parent / "made", **(facts | changes))

    def test_facts(self, source: Path) -> None:
        made = self.create(source, version="2", description="d", resize=8, provenance={"by": "us", "source": "x"})
        assert bundle.read(made.path) == made
        assert (made.name, made.version, made.description, made.resize) == ("made", "2", "d", 8)
        assert (made.labels, made.shape, made.colour, made.sigmas) == (LABELS, SHAPE, "rgb", (0.5, 0.25))
        assert made.defaults == Defaults(0.5, n0=100, n=10_000, alpha=0.001, predict_n=1_000)
        assert made.executions == (Execution("torch-program", "model.pt2", "torch-export", "float32"),)
        assert made.file("model.pt2").read_bytes() == source.read_bytes()
        assert made.provenance == {"by": "us", "source": "source.pt2"}

    def test_overrides(self, source: Path) -> None:
        made = self.create(source, colour="bgr", defaults=Defaults(0.25, n=7))
        assert (made.colour, made.defaults) == ("bgr", Defaults(0.25, n=7))

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"none\.pt2 cannot be read \(No such file or directory\)"):
            self.create(tmp_path / "none.pt2")

    @pytest.mark.parametrize(
        "changes", [{"shape": (3, 0, 4)}, {"labels": ("one",)}, {"sigmas": []}, {"shape": (2, 4, 4)}]
    )
    def test_values(self, source: Path, changes: dict[str, Any]) -> None:
        with pytest.raises(BundleError):
            self.create(source, **changes)
        assert not (source.parent / "made").exists()


class TestExecution:
    def test_by_name(self, stored: Bundle) -> None:
        first, second = stored.executions[0], Execution("fast", "weights.npz", "linear", "float32")
        both = dataclasses.replace(stored, executions=(first, second))
        assert both.execution("float64") == first
        assert both.execution("fast") == second

    @pytest.mark.parametrize("name", ["slow", "", "Float64", "linear"])
    def test_unknown(self, stored: Bundle, name: str) -> None:
        with pytest.raises(BundleError, match=f"has no execution '{name}'; there are float64") as caught:
            stored.execution(name)
        assert str(stored.path) in str(caught.value)


class TestRealModels:
    @pytest.mark.parametrize("name", ["resnet20_cifar10", "cifar10_l2robust_small"])
    def test_reference_logits(self, name: str, shared_data: Path, tmp_path: Path) -> None:
        pytest.importorskip("onnx")
        models = shared_data / "models"
        facts = next(row for row in json.loads((models / "manifest.json").read_text()) if row["name"] == name)
        normalise = facts["normalise"] or {"mean": None, "std": None}
        made = bundle.create(
            models / facts["onnx"],
            tmp_path / name,
            name=name,
            labels=[str(label) for label in range(10)],
            sigmas=[0.25],
            **normalise,
        )
        with np.load(shared_data / "cifar10" / "cifar10_test_a.npz") as test:
            pixels = test["x"][:16] / np.float32(255)
        with np.load(models / "reference_logits.npz") as reference:
            expected = reference[name]
        assert np.abs(run(made.file("model.onnx"), pixels) - expected).max() <= 1e-4

    def test_squeezenet(self, shared_data: Path, tmp_path: Path) -> None:
        pytest.importorskip("onnx")
        models = shared_data / "models"
        facts = {row["name"]: row for row in json.loads((models / "manifest.json").read_text())}
        made = bundle.create(
            models / "squeezenet1_1_imagenet.onnx",
            tmp_path / "squeezenet",
            name="squeezenet",
            labels=[f"class {label}" for label in range(1000)],
            sigmas=[0.25],
            resize=256,
            **facts["squeezenet1_1_imagenet"]["normalise"],
        )
        assert (made.shape, made.colour, made.resize) == ((3, 224, 224), "rgb", 256)
        with np.load(models / "reference_squeezenet1_1.npz") as reference:
            pixels = reference["crop_uint8_nhwc"].transpose(0, 3, 1, 2) / np.float32(255)
            expected = reference["logits"]
        assert np.abs(run(made.file("model.onnx"), pixels) - expected).max() <= 1e-3

    def test_an_autoencoder_is_refused(self, shared_data: Path, tmp_path: Path) -> None:
        pytest.importorskip("onnx")
        model = shared_data / "models" / "magnet_ae_cifar10.onnx"
        with pytest.raises(BundleError, match="has a first output of 4 axes"):
            bundle.create(model, tmp_path / "x", name="x", labels=LABELS, sigmas=[0.25])
