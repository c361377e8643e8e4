"""Metadata in the file, and code for Android and iOS."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import flatbuffers
import keras
import numpy as np
import pytest

from tests.scripts import load_script
from tfcompress.core.errors import ExportError, InvalidArgumentError
from tfcompress.exporters import ModelDescription, TFLiteExporter, export, load
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.tensors import TensorInfo
from tfcompress.exporters.tflite.app_code import write_callers
from tfcompress.exporters.tflite.metadata import read_labels
from tfcompress.exporters.tflite.rewriting import take_apart

pytestmark = pytest.mark.export
LABELS = tuple(f"class {number}" for number in range(10))
DESCRIPTION = ModelDescription(
    "clothes",
    text="Says what an image shows.",
    author="the authors",
    license="MIT",
    labels=LABELS,
    mean=127.5,
    std=63.5,
    tensors={"image": "A picture.", "logits": "Scores."},
)


@pytest.fixture(scope="module")
def described(quantized, folder):
    return export(quantized, folder / "described.tflite", description=DESCRIPTION)


def metadata_of(artifact):
    model = take_apart(artifact.path.read_bytes())
    (entry,) = [m for m in model.metadata if m.name == b"TFLITE_METADATA"]
    return bytes(bytearray(model.buffers[entry.buffer].data))


def test_the_file_computes_the_same(described, quantized_file, images):
    np.testing.assert_array_equal(load(described)(images), load(quantized_file)(images))
    assert described.inputs == quantized_file.inputs
    assert read_labels(described.path.read_bytes()) == LABELS
    assert read_labels(quantized_file.path.read_bytes()) == ()


def field(table, slot):
    """Returns where a field of a FlatBuffer table is, or 0."""
    place = table.Offset(4 + 2 * slot)
    return place and place + table.Pos


def child(table, slot, position=None):
    place = field(table, slot)
    assert place, f"field {slot} is missing"
    if position is None:
        return flatbuffers.table.Table(table.Bytes, table.Indirect(place))
    start = table.Vector(place - table.Pos) + 4 * position
    return flatbuffers.table.Table(table.Bytes, table.Indirect(start))


def text(table, slot):
    return table.String(field(table, slot)).decode()


def test_the_metadata_by_the_numbers_of_the_schema(described):
    content = metadata_of(described)
    assert content[4:8] == b"M001"
    root = flatbuffers.encode.Get(flatbuffers.packer.uoffset, content, 0)
    model = flatbuffers.table.Table(content, root)
    assert [text(model, slot) for slot in (0, 1, 4, 5)] == [
        "clothes",
        "Says what an image shows.",
        "the authors",
        "MIT",
    ]
    graph = child(model, 3, 0)
    image, logits = child(graph, 2, 0), child(graph, 3, 0)
    assert (text(image, 0), text(image, 1)) == ("image", "A picture.")
    assert (text(logits, 0), text(logits, 1)) == ("logits", "Scores.")
    labels = child(logits, 6, 0)
    assert text(labels, 0) == "labels.txt"


def test_the_metadata_by_the_official_reader(described):
    """With metadata_schema_py_generated.py of the tflite-support wheel."""
    path = os.environ.get("TFLITE_METADATA_SCHEMA")
    if not path:
        pytest.skip("needs TFLITE_METADATA_SCHEMA=.../metadata_schema_py_generated.py")
    schema = load_script(Path(path))
    content = metadata_of(described)
    assert schema.ModelMetadata.ModelMetadataBufferHasIdentifier(content, 0)
    model = schema.ModelMetadataT.InitFromPackedBuf(content, 0)
    assert (model.name, model.license) == (b"clothes", b"MIT")
    assert model.minParserVersion == b"1.0.0"
    (graph,) = model.subgraphMetadata
    (image,), (logits,) = graph.inputTensorMetadata, graph.outputTensorMetadata
    assert (
        image.content.contentPropertiesType == schema.ContentProperties.ImageProperties
    )
    assert image.content.contentProperties.colorSpace == schema.ColorSpaceType.RGB
    (unit,) = image.processUnits
    assert unit.optionsType == schema.ProcessUnitOptions.NormalizationOptions
    assert (list(unit.options.mean), list(unit.options.std)) == ([127.5], [63.5])
    (labels,) = logits.associatedFiles
    assert labels.type == schema.AssociatedFileType.TENSOR_AXIS_LABELS
    assert labels.name == b"labels.txt"


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (ModelDescription("m", labels=("a", "b")), "labels do not fit"),
        (ModelDescription("m", labels=("a\nb", *LABELS[1:])), "line break"),
        (ModelDescription("m", std=0.0), "are for images"),
        (ModelDescription("m", tensors={"nobody": "x"}), "nobody"),
    ],
)
def test_bad_descriptions(quantized, folder, description, message):
    with pytest.raises(InvalidArgumentError, match=message):
        export(quantized, folder / "never.tflite", description=description)
    assert not (folder / "never.tflite").exists()


def test_the_option_is_serialized():
    exporter = TFLiteExporter(description=DESCRIPTION)
    config = keras.saving.serialize_keras_object(exporter)
    assert keras.saving.deserialize_keras_object(config) == exporter


@pytest.fixture(scope="module")
def callers(quantized, folder):
    artifact = export(quantized, folder / "my-model.tflite", io_dtype="int8")
    write_callers(artifact, folder / "callers", package="org.example")
    texts = {p.name: p.read_text() for p in (folder / "callers").iterdir()}
    return artifact, texts


def test_callers_have_shapes_types_and_quantization(callers):
    artifact, texts = callers
    assert sorted(texts) == ["MyModel.kt", "MyModel.swift", "README.md"]
    kotlin, swift = texts["MyModel.kt"], texts["MyModel.swift"]
    assert kotlin.startswith("package org.example\n")
    assert "image: ByteArray" in kotlin
    assert "require(image.size == 432)" in kotlin  # 12 x 12 x 3
    assert "val logits: ByteArray" in kotlin
    assert "image: [Int8]" in swift
    assert "precondition(image.count == 432)" in swift
    scale, zero = artifact.inputs[0].scale, artifact.inputs[0].zero_point
    for text in (kotlin, swift):
        assert f"real value = {scale!r} * (integer - {zero})" in text
        assert text.count("{") == text.count("}")
        assert text.count("(") == text.count(")")


_INTERPRETER = """\
package org.tensorflow.lite;
import java.nio.ByteBuffer;
import java.util.Map;
public class Interpreter implements AutoCloseable {
  public static class Options { public Options setNumThreads(int n) { return this; } }
  public Interpreter(ByteBuffer model, Options options) {}
  public void runForMultipleInputsOutputs(Object[] in, Map<Integer, Object> out) {
    for (Map.Entry<Integer, Object> entry : out.entrySet()) {
      ByteBuffer given = ((ByteBuffer) in[entry.getKey()]).duplicate();
      ByteBuffer made = (ByteBuffer) entry.getValue();
      while (made.hasRemaining()) made.put(given.get());
    }
  }
  public void close() {}
}
"""
_MAIN = """\
import java.nio.ByteBuffer

fun main() {
    val caller = org.example.Words(ByteBuffer.allocate(1))
    val made = caller.run(FloatArray(3) { it + 0.5f }, FloatArray(2) { it + 7f })
    println(made.objectTensor.joinToString() + " " + made.varTensor.joinToString())
    caller.close()
}
"""


@pytest.fixture(scope="module")
def words(folder):
    """A file whose tensors are called like words of the languages."""
    given = [keras.Input((3,), name="val"), keras.Input((2,), name="buffer")]
    made = {
        "object": keras.layers.Dense(3, name="a")(given[0]),
        "var": keras.layers.Dense(2, name="b")(given[1]),
    }
    artifact = export(keras.Model(given, made), folder / "words.tflite")
    files = write_callers(artifact, folder / "words", package="org.example")
    return {file.suffix: file for file in files}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("kotlinc") is None, reason="needs kotlinc and javac")
def test_the_kotlin_code_compiles_and_runs(words, tmp_path):
    """With an interpreter that hands each input on as the output of its number."""
    java, main = tmp_path / "Interpreter.java", tmp_path / "Main.kt"
    java.write_text(_INTERPRETER)
    main.write_text(_MAIN)
    out = str(tmp_path / "out")

    def run(*command):
        return subprocess.run(command, check=True, capture_output=True, text=True)

    run("javac", "-d", out, str(java))
    run("kotlinc", "-cp", out, "-d", out, str(words[".kt"]), str(main))
    assert run("kotlin", "-cp", out, "MainKt").stdout == "0.5, 1.5, 2.5 7.0, 8.0\n"


def test_the_swift_code_is_swift(words):
    tree_sitter = pytest.importorskip("tree_sitter")
    swift = pytest.importorskip("tree_sitter_swift")
    parser = tree_sitter.Parser(tree_sitter.Language(swift.language()))
    code = words[".swift"].read_text()
    assert "valTensor: [Float32]" in code
    assert not parser.parse(code.encode()).root_node.has_error
    assert parser.parse(code.replace("[Float32]", "[", 1).encode()).root_node.has_error


def test_the_readme_says_what_delegates_take(callers):
    readme = callers[1]["README.md"]
    rows = re.findall(r"^\| (GPU|NNAPI|Core ML) \| (.*?) \|", readme, re.MULTILINE)
    assert dict(rows) == {
        "GPU": "all of it",
        "NNAPI": "all of it",
        "Core ML": "none of it: the model is in integers",
    }


def test_callers_refuse(quantized, quantized_version, quantized_file, folder):
    free = export(quantized, folder / "free_batch.tflite", batch_size=None)
    with pytest.raises(InvalidArgumentError, match=r"generated code.*batch_size=1"):
        write_callers(free, folder / "never")
    with pytest.raises(InvalidArgumentError, match="Callers are for"):
        write_callers(quantized_version, folder / "never")
    with pytest.raises(InvalidArgumentError, match="Kotlin package"):
        write_callers(quantized_file, folder / "never", package="a;b")
    assert not (folder / "never").exists()
    (folder / "taken").mkdir()
    with pytest.raises(ExportError, match="exists already"):
        write_callers(quantized_file, folder / "taken")


# Words of Kotlin and Swift, names of the generated code, and names that become equal.
NAMES = [
    "as",
    "class",
    "in",
    "is",
    "object",
    "val",
    "var",
    "fun",
    "when",
    "typealias",
    "init",
    "func",
    "let",
    "self",
    "guard",
    "inout",
    "nil",
    "throw",
    "try",
    "await",
    "open",
    "data",
    "default",
    "x",
    "x_in",
    "xIn",
    "x-in",
    "x.in",
    "X",
    "xIn1",
    "x1",
    "interpreter",
    "buffer",
    "values",
    "run",
    "close",
    "require",
    "precondition",
    "arrayOf",
    "mapOf",
    "in_0",
    "out_0",
    "made_0",
    "outputs",
    "size",
    "123",
    "1x",
    "日本",
    "ü",
    "_",
    "__",
    "model/a",
    "a:0",
    "a_0",
    "a0",
    "Outputs",
    "Data",
    "Any",
]
STEMS = [
    "interpreter",
    "Interpreter",
    "byte-buffer",
    "data",
    "outputs",
    "Any",
    "float",
    "1st",
    "日本",
    "class",
    "my.model",
    "AutoCloseable",
    "list",
    "error",
    "type",
]


def of_tree(language, code):
    """Returns the nodes of a parsed source, by kind, and whether it has errors."""
    tree_sitter = pytest.importorskip("tree_sitter")
    module = pytest.importorskip(f"tree_sitter_{language}")
    parser = tree_sitter.Parser(tree_sitter.Language(module.language()))
    tree = parser.parse(code.encode())
    found, waiting = [], [tree.root_node]
    while waiting:
        node = waiting.pop()
        found.append(node)
        waiting += node.children
    return found, tree.root_node.has_error


def described_as(stem, names, path):
    infos = tuple(TensorInfo(name, (1, 2), "float32") for name in names)
    file = path / f"{stem}.tflite"
    return Artifact(file, "tflite", infos, infos, (file,))


@pytest.mark.parametrize("stem", STEMS)
def test_code_of_any_names_is_code(tmp_path, stem):
    files = write_callers(described_as(stem, NAMES, tmp_path), tmp_path / "code")
    texts = {file.suffix: file.read_text() for file in files}
    for suffix, language in ((".kt", "kotlin"), (".swift", "swift")):
        nodes, broken = of_tree(language, texts[suffix])
        assert not broken, texts[suffix]
        names = [n.text.decode() for n in nodes if "identifier" in n.type]
        assert set(names)
    kotlin, swift = texts[".kt"], texts[".swift"]
    (name,) = re.findall(r"^class (\w+)\(", kotlin, re.M)
    assert name not in ("Interpreter", "ByteBuffer", "Data", "Outputs", "Any", "Float")
    assert f"public final class {name} {{" in swift
    body = kotlin[kotlin.index("fun run(") :]
    parameters = re.findall(r"^        (\w+): FloatArray", body, re.M)
    locals_ = re.findall(r"\bval (\w+) =", body)
    assert len(parameters) == len(NAMES)
    declared = parameters + locals_
    assert len(set(declared)) == len(declared)
    for one in (*parameters, *re.findall(r"(\w+): \[Float32\]", swift)):
        assert one.isascii()
        assert one[0].isalpha()
        assert one not in ("in", "is", "class", "self", "values", "interpreter", "run")


@pytest.mark.parametrize("package", ["org.in.x", "org.2", "a b", "", "ü", None, "a..b"])
def test_packages_that_are_none(tmp_path, package):
    with pytest.raises(InvalidArgumentError, match="Kotlin package"):
        write_callers(
            described_as("m", ["x"], tmp_path), tmp_path / "code", package=package
        )
