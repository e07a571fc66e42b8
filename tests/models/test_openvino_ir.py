"""OpenVINO's IR becomes ONNX: same output as OpenVINO, clear errors for what it does not know."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest

from facestream import CorruptModelFile, MissingModelFile, ModelError
from facestream.models.backends import open_session
from facestream.models.openvino_ir import convert_ir

Floats = npt.NDArray[np.float32]
FACE_ID = "face-reidentification-retail-0095"


def run(model: onnx.ModelProto, images: Floats) -> Floats:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {session.get_inputs()[0].name: images})[0])


def run_openvino(xml: Path, images: Floats) -> Floats:
    """What OpenVINO itself makes of the same file, one picture at a time: its batch is one."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed: nothing to compare with")
    session = open_session(xml, backend="openvino")
    (name,), (output,) = session.inputs, session.outputs
    return np.concatenate([session.run({name: image[None]})[output] for image in images]).reshape(
        len(images), -1
    )


class Writer:
    """Writes a small IR: an input of 3 x 8 x 8 and layers one after the other."""

    def __init__(self) -> None:
        self.names = 0
        self.layers = [
            '<layer id="0" name="data" type="Parameter" version="opset1">'
            '<data shape="1,3,8,8" element_type="f32"/>' + self.port(0, (1, 3, 8, 8)) + "</layer>"
        ]
        self.edges: list[str] = []
        self.blob = b""
        self.last, self.last_port, self.count = 0, 0, 1
        self.shape: tuple[int, ...] = (1, 3, 8, 8)

    def port(self, number: int, shape: tuple[int, ...]) -> str:
        """An output port; OpenVINO wants its tensor to have a name."""
        dims = "".join(f"<dim>{n}</dim>" for n in shape)
        self.names += 1
        name = f"t{self.names}"
        return f'<output><port id="{number}" precision="FP32" names="{name}">{dims}</port></output>'

    def constant(self, values: npt.NDArray[np.float64]) -> int:
        data = values.astype("<f2").tobytes()
        shape = ", ".join(map(str, values.shape))
        const, convert = self.count, self.count + 1
        self.count += 2
        self.layers += [
            f'<layer id="{const}" name="c{const}" type="Const" version="opset1">'
            f'<data element_type="f16" shape="{shape}" offset="{len(self.blob)}" '
            f'size="{len(data)}"/>'
            f"{self.port(0, values.shape)}</layer>",
            f'<layer id="{convert}" name="c{convert}" type="Convert" version="opset1">'
            f'<data destination_type="f32"/><input><port id="0"/></input>'
            f"{self.port(1, values.shape)}</layer>",
        ]
        self.edge(const, 0, convert, 0)
        self.blob += data
        return convert

    def edge(self, source: int, source_port: int, target: int, target_port: int) -> None:
        self.edges.append(
            f'<edge from-layer="{source}" from-port="{source_port}" '
            f'to-layer="{target}" to-port="{target_port}"/>'
        )

    def layer(
        self,
        kind: str,
        data: str = "",
        constants: tuple[npt.NDArray[np.float64], ...] = (),
        shape: tuple[int, ...] | None = None,
    ) -> None:
        operands = [self.constant(values) for values in constants]
        number, self.count = self.count, self.count + 1
        self.shape = shape or self.shape
        ports = "".join(f'<port id="{n}"/>' for n in range(1 + len(operands)))
        output = "" if kind == "Result" else self.port(1 + len(operands), self.shape)
        self.layers.append(
            f'<layer id="{number}" name="n{number}" type="{kind}" version="opset1">'
            f"{f'<data {data}/>' if data else ''}<input>{ports}</input>{output}</layer>"
        )
        self.edge(self.last, self.last_port, number, 0)
        for port, operand in enumerate(operands, 1):
            self.edge(operand, 1, number, port)
        self.last, self.last_port = number, 1 + len(operands)

    def write(self, folder: Path) -> tuple[Path, Path]:
        xml, weights = folder / "net.xml", folder / "net.bin"
        xml.write_text(
            f'<?xml version="1.0"?><net name="net" version="11"><layers>{"".join(self.layers)}'
            f"</layers><edges>{''.join(self.edges)}</edges></net>"
        )
        weights.write_bytes(self.blob)
        return xml, weights


GEOMETRY = (
    'strides="{0}, {0}" dilations="1, 1" pads_begin="1, 1" pads_end="1, 1" auto_pad="explicit"'
)
POOL = (
    'kernel="{0}, {0}" strides="{0}, {0}" pads_begin="0, 0" pads_end="0, 0" exclude-pad="true" '
    'auto_pad="explicit" rounding_type="floor"'
)


def small_network(random: np.random.Generator, *, slopes: int) -> Writer:
    """Every layer type that the converter knows."""
    numpy_rule = 'auto_broadcast="numpy"'
    ir = Writer()
    ir.layer("Multiply", numpy_rule, (random.normal(1, 0.1, (1, 3, 1, 1)),))
    ir.layer(
        "Convolution", GEOMETRY.format(1), (random.normal(0, 0.4, (4, 3, 3, 3)),), (1, 4, 8, 8)
    )
    ir.layer("Add", numpy_rule, (random.normal(0, 1, (1, 4, 1, 1)),))
    ir.layer("PReLU", "", (random.uniform(-0.5, 1.5, slopes),))
    ir.layer(
        "GroupConvolution",
        GEOMETRY.format(2),
        (random.normal(0, 0.4, (4, 1, 1, 3, 3)),),
        (1, 4, 4, 4),
    )
    ir.layer("AvgPool", POOL.format(2), (), (1, 4, 2, 2))
    ir.layer("Sigmoid")
    ir.layer("AvgPool", POOL.format(2), (), (1, 4, 1, 1))
    ir.layer("Result")
    return ir


@pytest.mark.parametrize("slopes", [1, 4], ids=["one slope", "one slope per channel"])
def test_a_small_network_gives_openvinos_output(tmp_path: Path, slopes: int) -> None:
    random = np.random.default_rng(slopes)
    xml, weights = small_network(random, slopes=slopes).write(tmp_path)
    model = convert_ir(xml, weights)
    # ONNX Runtime has no fast kernel for PRelu.
    assert "PRelu" not in {node.op_type for node in model.graph.node}
    images = random.normal(0, 2, (3, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(run(model, images), run_openvino(xml, images), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def face_id(assets: Path) -> onnx.ModelProto:
    folder = assets / "models"
    return convert_ir(folder / f"{FACE_ID}.xml", folder / f"{FACE_ID}.bin")


def test_the_face_network_gives_openvinos_output(face_id: onnx.ModelProto, assets: Path) -> None:
    images = np.random.default_rng(0).uniform(0, 255, (2, 3, 128, 128)).astype(np.float32)
    got = run(face_id, images)
    assert got.shape == (2, 256)
    assert {node.op_type for node in face_id.graph.node}.isdisjoint({"PRelu", "Constant"})
    reference = run_openvino(assets / "models" / f"{FACE_ID}.xml", images)
    np.testing.assert_allclose(got, reference, rtol=0, atol=1e-4)
    other = onnx.load(assets / "models" / "omz_face_reid_0095_noprelu.onnx")
    used = {name for node in other.graph.node for name in node.input}
    for unused in [i for i in other.graph.initializer if i.name not in used]:
        other.graph.initializer.remove(unused)
    np.testing.assert_allclose(got, run(other, images).reshape(2, -1), rtol=0, atol=1e-4)


def test_an_unknown_layer_type_is_named(tmp_path: Path) -> None:
    ir = Writer()
    ir.layer("Swish")
    ir.layer("Result")
    with pytest.raises(ModelError, match=r"layer 'n1' has type 'Swish'.*known types are Add"):
        convert_ir(*ir.write(tmp_path))


def test_weights_that_are_too_short_are_named(tmp_path: Path) -> None:
    xml, weights = small_network(np.random.default_rng(0), slopes=1).write(tmp_path)
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CorruptModelFile, match=r"needs 72 bytes at \d+, the weights have \d+"):
        convert_ir(xml, weights)
    weights.unlink()
    with pytest.raises(MissingModelFile, match=r"net\.bin"):
        convert_ir(xml, weights)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<net version='11'><layers>", "broken XML"),
        ("<!DOCTYPE net [<!ENTITY a 'b'>]><net version='11'/>", "document type"),
        ("<net version='11'/>".encode("utf-16"), "no UTF-8 text"),
        ("<net version='5'/>", r"version 10 or 11, got <net> 5"),
        ("<html/>", "got <html> None"),
        ("<net version='11'/>", "expected one input and one output, got 0 and 0"),
    ],
)
def test_what_is_not_an_ir_is_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    xml, weights = tmp_path / "net.xml", tmp_path / "net.bin"
    xml.write_bytes(text if isinstance(text, bytes) else text.encode())
    weights.write_bytes(b"")
    with pytest.raises(ModelError, match=message):
        convert_ir(xml, weights)


def test_any_damage_is_an_error_of_ours_in_one_line_or_harmless(tmp_path: Path) -> None:
    xml, weights = small_network(np.random.default_rng(0), slopes=4).write(tmp_path)
    whole = xml.read_text()
    # Whatever element is missing, and whatever number is another or none.
    elements = re.finditer(
        r"<edge [^>]*/>|<dim>[^<]*</dim>|<data [^>]*/>|<layer .*?</layer>", whole
    )
    damaged = [whole[: m.start()] + whole[m.end() :] for m in elements]
    for number in list(re.finditer(r"[0-9]+", whole))[::5]:
        for other in ("9", "x", "-1"):
            damaged.append(whole[: number.start()] + other + whole[number.end() :])
    refused = 0
    for text in damaged:
        xml.write_text(text)
        try:
            convert_ir(xml, weights)
        except ModelError as error:
            assert "net.xml" in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 50


def test_a_circle_of_layers_is_refused(tmp_path: Path) -> None:
    ir = Writer()
    ir.layer("Sigmoid")
    ir.layer("Sigmoid")
    ir.edges.append('<edge from-layer="2" from-port="1" to-layer="1" to-port="0"/>')
    ir.layer("Result")
    with pytest.raises(CorruptModelFile, match="in a circle"):
        convert_ir(*ir.write(tmp_path))
