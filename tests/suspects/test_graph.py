"""Which operators of a SavedModel are accepted, and where."""

from __future__ import annotations

from typing import Any

import pytest
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects.admission.saved_model import check_operators

REACHING_OUT = (
    "ReadFile WriteFile MatchingFiles PyFunc EagerPyFunc PyFuncStateless ImmutableConst PrintV2 Print Save "
    "SaveSlices Restore WholeFileReaderV2 TFRecordDataset TextLineDataset DataServiceDatasetV4 DebugIdentityV2 "
    "RemoteCall Send Recv XlaCallModule FixedUnigramCandidateSampler LearnedUnigramCandidateSampler DecodeProtoV2 "
    "CreateSummaryFileWriter LoadAndRemapMatrix FileSystemSetConfiguration BatchFunction TPUPartitionedCall "
    "NcclAllReduce Abort LMDBReader NoSuchOperator"
).split()


def function(meta_graph: MetaGraphDef, name: str, *nodes: tuple[str, str, list[str]], arguments: Any = ()) -> None:
    """Adds a function to the library; a node is its name, its operator, and its inputs."""
    added = meta_graph.graph_def.library.function.add()
    added.signature.name = name
    for argument in arguments:
        added.signature.input_arg.add(name=argument)
    for node, operator, inputs in nodes:
        added.node_def.add(name=node, op=operator, input=inputs)


def node(meta_graph: MetaGraphDef, name: str, operator: str, *inputs: str, calls: str | None = None) -> None:
    added = meta_graph.graph_def.node.add(name=name, op=operator, input=inputs)
    if calls is not None:
        added.attr["f"].func.name = calls


def held(meta_graph: MetaGraphDef, name: str, *bound: int) -> None:
    """Makes an object of the model hold a function, so that it can be called."""
    meta_graph.object_graph_def.concrete_functions[name].bound_inputs.extend(bound)


@pytest.fixture
def meta_graph() -> MetaGraphDef:
    """A model of TensorFlow 2 whose signature calls `serve`."""
    made = MetaGraphDef()
    node(made, "x", "Placeholder")
    node(made, "call", "StatefulPartitionedCall", "x", calls="serve")
    made.signature_def["serving_default"].outputs["y"].name = "call:0"
    held(made, "serve")
    return made


def refusal(meta_graph: MetaGraphDef, *, is_version_1: bool = False) -> str:
    with pytest.raises(SuspectError, match="is refused") as refused:
        check_operators(meta_graph, "suspect", is_version_1=is_version_1)
    return str(refused.value)


@pytest.mark.parametrize("operator", REACHING_OUT)
@pytest.mark.parametrize("place", ["graph", "function that nothing calls"])
def test_operators_that_reach_out_are_refused_wherever_they_stand(
    meta_graph: MetaGraphDef, operator: str, place: str
) -> None:
    function(meta_graph, "serve", ("add", "AddV2", ["x", "x"]))
    check_operators(meta_graph, "suspect")
    if place == "graph":
        node(meta_graph, "bad", operator)
    else:
        function(meta_graph, "unused", ("bad", operator, []))
    assert f"node bad of its {place.split()[0]}" in refusal(meta_graph)
    assert f"is the operator {operator}, which may reach" in refusal(meta_graph)


def test_names_from_the_file_are_shown_as_plain_text(meta_graph: MetaGraphDef) -> None:
    function(meta_graph, "serve", ("\x1b[2J\u202e\nok " + "x" * 1000, "Read\x9bFile", []))
    text = refusal(meta_graph)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < 700


SAVER = [("name", "ShardedFilename", ["prefix"]), ("save", "SaveV2", ["name"]), ("merge", "MergeV2Checkpoints", [])]


def test_saver_is_accepted_where_nothing_else_calls_it(meta_graph: MetaGraphDef) -> None:
    function(meta_graph, "serve", ("add", "AddV2", ["x", "x"]))
    function(meta_graph, "save", *SAVER, arguments=["prefix"])  # type: ignore[arg-type]
    function(meta_graph, "restore", ("r", "RestoreV2", ["prefix"]), arguments=["prefix"])
    node(meta_graph, "prefix", "Placeholder")
    node(meta_graph, "saving", "StatefulPartitionedCall", "prefix", calls="save")
    node(meta_graph, "restoring", "StatefulPartitionedCall", "prefix", calls="restore")
    meta_graph.saver_def.save_tensor_name, meta_graph.saver_def.restore_op_name = "saving:0", "restoring"
    check_operators(meta_graph, "suspect")


@pytest.mark.parametrize(
    "reach",
    [
        "a signature",
        "a function of the signature's",
        "an initializer",
        "a held function",
        "a branch",
        "an attribute's attribute",
        "an exchanged function",
        "a gradient",
    ],
)
@pytest.mark.parametrize("operator", ["SaveV2", "MergeV2Checkpoints", "ShardedFilename", "RestoreV2"])
def test_saver_is_refused_where_something_else_reaches_it(meta_graph: MetaGraphDef, reach: str, operator: str) -> None:
    body = ("bad", operator, ["x"])
    if reach == "a signature":
        function(meta_graph, "serve", body)
    elif reach == "a function of the signature's":
        function(meta_graph, "serve", ("inner", "save", ["x"]))
        function(meta_graph, "save", body)
    elif reach == "an initializer":
        node(meta_graph, "bad", operator, "x")
        node(meta_graph, "all", "NoOp", "^bad")
        meta_graph.collection_def["saved_model_main_op"].node_list.value.append("all")
    elif reach == "a held function":
        function(meta_graph, "init", body)
        held(meta_graph, "init")
    elif reach == "an attribute's attribute":
        function(meta_graph, "serve", ("call", "PartitionedCall", ["x"]))
        call = meta_graph.graph_def.library.function[0].node_def[0]
        call.attr["f"].func.attr["g"].func.name = "save"
        function(meta_graph, "save", body)
    elif reach in ("an exchanged function", "a gradient"):
        function(meta_graph, "serve", ("add", "AddV2", ["x", "x"]))
        function(meta_graph, "save", body)
        if reach == "a gradient":
            meta_graph.graph_def.library.gradient.add(function_name="serve", gradient_func="save")
        for each in meta_graph.graph_def.library.function:
            each.attr["api_implements"].s = b"gru"
    else:
        function(meta_graph, "serve", ("branch", "If", ["x", "x"]))
        branches = meta_graph.graph_def.library.function[0].node_def[0].attr["branches"].list
        branches.func.add(name="save")
        function(meta_graph, "save", body)
    assert f"is the operator {operator}" in refusal(meta_graph)


def test_call_that_the_caller_fills_in_is_refused(meta_graph: MetaGraphDef) -> None:
    function(meta_graph, "serve", ("call", "PartitionedCall", ["x"]))
    meta_graph.graph_def.library.function[0].node_def[0].attr["f"].placeholder = "g"
    assert "what node call calls is open until it is called" in refusal(meta_graph)


def test_function_named_as_an_operator_is_refused(meta_graph: MetaGraphDef) -> None:
    function(meta_graph, "ReadFile", ("add", "AddV2", ["x", "x"]))
    node(meta_graph, "bad", "ReadFile", "x")
    assert "a function of its own called ReadFile, as an operator is" in refusal(meta_graph)


@pytest.mark.parametrize("place", ["graph", "library", "function"])
def test_two_of_one_name_are_refused(meta_graph: MetaGraphDef, place: str) -> None:
    """What is checked could be another than what is run."""
    function(meta_graph, "serve", ("n", "AddV2", ["x", "x"]), ("n" if place == "function" else "m", "AddV2", []))
    if place == "graph":
        node(meta_graph, "x", "AddV2")
    elif place == "library":
        function(meta_graph, "serve", ("n", "AddV2", []))
    assert "has two nodes or functions of one name" in refusal(meta_graph)


def test_saver_of_tensorflow_1_restores_its_own_variables_alone() -> None:
    def made(prefix: str) -> MetaGraphDef:
        graph = MetaGraphDef()
        node(graph, "filename", "Const")
        node(graph, "other", "Const")
        node(graph, "restore", "RestoreV2", prefix)
        node(graph, "assign", "Assign", "restore")
        graph.saver_def.filename_tensor_name, graph.saver_def.restore_op_name = "filename:0", "assign"
        return graph

    check_operators(made("filename"), "suspect", is_version_1=True)
    assert "is the operator RestoreV2" in refusal(made("other"), is_version_1=True)


@pytest.mark.parametrize(
    ("source", "accepted"),
    [
        ("an asset", True),
        ("an asset, handed on", True),
        ("another object", False),
        ("no object", False),
        ("a constant", False),
        ("an asset and a constant", False),
        ("an argument of the signature", False),
    ],
)
def test_tables_are_filled_from_assets_alone(meta_graph: MetaGraphDef, source: str, accepted: bool) -> None:
    """The initializer `init` fills a table from the file that its second argument, or that of its caller, names."""
    meta_graph.object_graph_def.nodes.add().user_object.SetInParent()
    meta_graph.object_graph_def.nodes.add().asset.SetInParent()
    inputs = ["table", "path"]
    filling = ("fill", "InitializeTableFromTextFileV2", inputs)
    path = ("path", "Const", []) if source == "a constant" else ("copy", "Identity", ["path"])
    function(meta_graph, "init", path, filling, arguments=["table", *([] if source == "a constant" else ["path"])])  # type: ignore[arg-type]
    bound = {"an asset": (0, 1), "another object": (0, 0), "no object": (0, 7), "an asset and a constant": (0, 1)}
    if source in bound:
        held(meta_graph, "init", *bound[source])
    elif source == "an asset, handed on":
        function(meta_graph, "outer", ("c", "PartitionedCall", ["t", "p"]), arguments=["t", "p"])
        meta_graph.graph_def.library.function[-1].node_def[0].attr["f"].func.name = "init"
        held(meta_graph, "outer", 0, 1)
    elif source == "an argument of the signature":
        held(meta_graph, "init", 0)
    if source == "an asset and a constant":
        function(meta_graph, "serve", ("p", "Const", []), ("c", "PartitionedCall", ["p", "p"]))
        meta_graph.graph_def.library.function[-1].node_def[1].attr["f"].func.name = "init"
    if accepted:
        check_operators(meta_graph, "suspect")
    else:
        assert "is the operator InitializeTableFromTextFileV2" in refusal(meta_graph)
