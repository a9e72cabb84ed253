"""The graph of a SavedModel as data: what running it reaches, and where a file name comes from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_INITIALIZERS = ("saved_model_main_op", "legacy_init_op", "saved_model_train_op")
_PASSING_ON = frozenset(("Identity", "PartitionedCall", "StatefulPartitionedCall"))
MAIN = ""  # the graph itself, beside its functions


class Graph:
    """One `MetaGraphDef`.

    Args:
        meta_graph: it.
        is_version_1: whether TensorFlow loads it as a model of TensorFlow 1: runs the graph, restores by the saver.

    Attributes:
        functions: the functions of its library, by name.
        names_are_unique: whether no two nodes of a place, and no two functions, have the same name.
    """

    def __init__(self, meta_graph: Any, *, is_version_1: bool) -> None:
        self._meta_graph = meta_graph
        self.functions = {each.signature.name: each for each in meta_graph.graph_def.library.function}
        self._nodes = {MAIN: {node.name: node for node in meta_graph.graph_def.node}}
        self._nodes |= {name: {node.name: node for node in each.node_def} for name, each in self.functions.items()}
        self._is_version_1 = is_version_1
        self._assets = {_node_of(asset.tensor_info.name) for asset in meta_graph.asset_file_def}
        self._filename = _node_of(meta_graph.saver_def.filename_tensor_name)
        library = meta_graph.graph_def.library.function
        counted = [[each.signature.name for each in library], [node.name for node in meta_graph.graph_def.node]]
        counted += [[node.name for node in each.node_def] for each in library]
        self.names_are_unique = all(len(names) == len(set(names)) for names in counted)
        self._alike = self._exchanged()
        self._callers: dict[str, list[tuple[str, Any]]] = {}
        for where, node in self.nodes():
            for name in self._called(node):
                self._callers.setdefault(name, []).append((where, node))

    def nodes(self) -> Iterator[tuple[str, Any]]:
        """All nodes, each with the name of the function that it stands in."""
        for node in self._meta_graph.graph_def.node:
            yield MAIN, node
        for name, function in self.functions.items():
            for node in function.node_def:
                yield name, node

    def reached(self) -> set[tuple[str, str]]:
        """The nodes, by function and name, that loading the model or calling a signature can run.

        That is all but the saver, and what nothing calls. TensorFlow 2 restores variables by itself; in a model of
        TensorFlow 1, the saver's restoring half is run too.
        """
        meta_graph = self._meta_graph
        ends = [info.name for signature in meta_graph.signature_def.values() for info in signature.outputs.values()]
        ends += [info.name for signature in meta_graph.signature_def.values() for info in signature.inputs.values()]
        for key in _INITIALIZERS:
            ends += meta_graph.collection_def[key].node_list.value if key in meta_graph.collection_def else ()
        if self._is_version_1:
            ends.append(meta_graph.saver_def.restore_op_name)
        found: set[tuple[str, str]] = set()
        waiting = [(MAIN, _node_of(name)) for name in ends]
        entered = {name for held in self._held_by_objects() for name in self._alike.get(held, ())}
        waiting += [(name, node) for name in entered for node in self._nodes[name]]
        while waiting:
            place = waiting.pop()
            where, name = place
            node = self._nodes[where].get(name)
            if node is None or place in found:
                continue
            found.add(place)
            waiting += [(where, _node_of(source)) for source in node.input]
            for called in set(self._called(node)) - entered:
                entered.add(called)
                waiting += [(called, inner) for inner in self._nodes[called]]
        return found

    def restores_own(self, where: str, node: Any) -> bool:
        """Whether a node restores from the variables that the loader of TensorFlow 1 names."""
        return self._is_version_1 and where == MAIN and bool(node.input) and _node_of(node.input[0]) == self._filename

    def reads_asset(self, where: str, node: Any) -> bool:
        """Whether the file name that a node takes, its second input, can only be that of an asset of the model."""
        return len(node.input) > 1 and self._is_asset(where, node.input[1], frozenset())

    def _is_asset(self, where: str, source: str, seen: frozenset[tuple[str, str]]) -> bool:
        name = _node_of(source)
        if (where, name) in seen:
            return False
        seen |= {(where, name)}
        node = self._nodes[where].get(name)
        if node is not None and node.op == "Identity":
            return self._is_asset(where, node.input[0], seen)
        if where == MAIN:
            return node is not None and node.op in ("Const", "Placeholder") and name in self._assets
        arguments = [each.name for each in self.functions[where].signature.input_arg]
        if node is not None or name not in arguments or len(self._alike[where]) > 1:
            return False
        index = arguments.index(name)
        given = [self._bound(held, index - len(arguments)) for held in self._holders(where)]
        for caller, call in self._callers.get(where, ()):
            if caller == MAIN and not self._is_version_1:
                continue  # TensorFlow 2 calls functions from objects; nothing runs the graph beside them
            calls_plainly = call.op == where or (call.op in _PASSING_ON and call.attr["f"].func.name == where)
            data = [each for each in call.input if not each.startswith("^")]
            given.append(calls_plainly and index < len(data) and self._is_asset(caller, data[index], seen))
        return bool(given) and all(given)

    def _holders(self, name: str) -> list[Any]:
        """The concrete function of the object graph of that name, if objects hold it."""
        functions = self._meta_graph.object_graph_def.concrete_functions
        return [functions[name]] if name in functions else []

    def _bound(self, concrete: Any, from_the_end: int) -> bool:
        """Whether a captured argument, counted from the end, is an asset."""
        if -from_the_end > len(concrete.bound_inputs):
            return False
        number = concrete.bound_inputs[from_the_end]
        objects = self._meta_graph.object_graph_def.nodes
        return bool(0 <= number < len(objects) and objects[number].WhichOneof("kind") == "asset")

    def _held_by_objects(self) -> Iterator[str]:
        """The functions that Python objects call: signatures, initializers, those that restore tables."""
        graph = self._meta_graph.object_graph_def
        yield from graph.concrete_functions
        for node in graph.nodes:
            yield from node.function.concrete_functions
            if node.bare_concrete_function.concrete_function_name:
                yield node.bare_concrete_function.concrete_function_name

    def _called(self, node: Any) -> Iterator[str]:
        """The functions of the library that a node may call, by itself or where the optimizer exchanges them."""
        named = {node.op, *(name for value in node.attr.values() for name in _named(value))}
        for name in named & self.functions.keys():
            yield from self._alike[name]

    def _exchanged(self) -> dict[str, frozenset[str]]:
        """For each function, those that may run in its place: gradients, and others that say they do the same."""
        alike: dict[str, set[str]] = {name: {name} for name in self.functions}
        groups: dict[bytes, set[str]] = {}
        for name, function in self.functions.items():
            if function.attr["api_implements"].s if "api_implements" in function.attr else b"":
                groups.setdefault(function.attr["api_implements"].s, set()).add(name)
        for group in groups.values():
            for name in group:
                alike[name] |= group
        for pair in self._meta_graph.graph_def.library.gradient:
            if pair.function_name in alike and pair.gradient_func in alike:
                alike[pair.function_name].add(pair.gradient_func)
        return {name: frozenset(others) for name, others in alike.items()}


def _named(value: Any) -> Iterator[str]:
    """The functions that an attribute names, also as attributes of functions."""
    for function in (value.func, *value.list.func):
        yield function.name
        for inner in function.attr.values():
            yield from _named(inner)


def _node_of(tensor: str) -> str:
    """The name of a node, from that of a tensor or a control input."""
    return tensor.removeprefix("^").partition(":")[0]
