"""A traced graph as an ordinary nn.Module again: parameters under their own names, batch norms and dropouts as layers.

Batch norm and dropout are called as the layers that they were, so that train() and eval() keep their meaning; all else
is in the graph. The state dict has the names of the model that was traced.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.nn.modules.batchnorm import _BatchNorm

from prunekit.surgery.rules import module_path, op_name


def as_module(program: torch.export.ExportedProgram, small: nn.Module) -> fx.GraphModule:
    """The graph with the small model's tensors, batch norms and dropouts under their own names."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    lifted = {**signature.inputs_to_lifted_tensor_constants}
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for key, constant in lifted.items():
        tensor = program.constants[constant]
        assert isinstance(tensor, Tensor)
        small.register_buffer(f"_constant_{key}", tensor, persistent=False)
    for node in program.graph.nodes:
        if node.op == "placeholder" and (node.name in names or node.name in lifted):
            if node.users:
                made[node] = graph.get_attr(names.get(node.name, f"_constant_{node.name}"))
            continue
        module = _mode_module(node, small)
        if module is not None:
            made[node] = graph.call_module(module, (made[node.args[0]],))
        else:
            made[node] = graph.node_copy(node, lambda n: made[n])
    inputs = [n.name for n in program.graph.nodes if n.op == "placeholder" and n.name in signature.user_inputs]
    spec = program.call_spec
    assert spec.in_spec is not None and spec.out_spec is not None
    graph._codegen = _PyTreeCodeGen(_PyTreeInfo(inputs, spec.in_spec, spec.out_spec))
    whole = fx.GraphModule(small, graph, type(small).__name__)
    whole.graph.eliminate_dead_code()
    whole.recompile()
    _complete(whole, small)
    return whole.train(small.training)  # type: ignore[return-value]


def _mode_module(node: fx.Node, small: nn.Module) -> str | None:
    """The path of the batch norm or dropout that this op is, so that train() and eval() keep their meaning."""
    path, op = module_path(node), op_name(node)
    module = small.get_submodule(path) if path and op in ("batch_norm", "dropout") else None
    if module is not None:
        module._forward_hooks.clear()  # what they change is in the graph: once is enough
        module._forward_pre_hooks.clear()
    if op == "dropout" and isinstance(module, nn.Dropout):
        return path
    if op == "batch_norm" and isinstance(module, _BatchNorm):
        if (
            type(module).__module__ != "torch.nn.modules.batchnorm"
        ):  # one with an activation inside, which is in the graph
            _set(small, path, _plain(module))
        return path
    return None


def _plain(norm: _BatchNorm) -> nn.BatchNorm2d:
    plain = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    plain._parameters.update(norm._parameters)
    plain._buffers.update(norm._buffers)
    return plain.train(norm.training)


def _set(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)


def _complete(whole: fx.GraphModule, small: nn.Module) -> None:
    """The same state dict: tensors that the graph does not read (counters) belong to it, made-up constants do not."""
    state, wanted = whole.state_dict(keep_vars=True), small.state_dict(keep_vars=True)
    for name in set(state) - set(wanted):
        path, _, last = name.rpartition(".")
        whole.get_submodule(path)._non_persistent_buffers_set.add(last)
    for name, tensor in wanted.items():
        if name in state:
            continue
        *path, last = name.split(".")
        owner: nn.Module = whole
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        if isinstance(tensor, nn.Parameter):
            owner.register_parameter(last, tensor)
        else:
            owner.register_buffer(last, tensor)
