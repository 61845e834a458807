"""Which modules of a network the kernels that inductor compiled came from.

Inductor writes that down by node of the program, with gaps: for a convolution with what follows it in one
Inductor writes that down by node of the program, with gaps: for a convolution and what follows it in one
This file imports torch, so the runtime imports it where it uses it.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from efficientformer.runtimes.pytorch.programs import CONVOLUTIONS, kind, source


def origins_of(graph: fx.Graph, kernels: dict[str, dict[str, list[str]]]) -> list[dict[str, Any]]:
    """Each kernel in the order of their calls: name, modules, operators, and whether it changes a layout.

    Args:
        graph: the program's.
        kernels: inductor's `kernel_information.json`: nodes by `<kernel>:<number>`.
    """
    place = {node.name: index for index, node in enumerate(graph.nodes)}
    nodes = list(graph.nodes)
    ordered = sorted(kernels.items(), key=lambda item: int(item[0].rpartition(":")[2]))
    named = [
        [nodes[place[name]] for name in about["pre_grad_nodes"] if name in place] for _, about in ordered
    ]
    calls = [index for index, (name, _) in enumerate(ordered) if "convolution" in name]
    claims = [_claim(named[index]) for index in calls]
    own = _shared_out([node for node in nodes if node.target in CONVOLUTIONS], claims)
    layouts = {index - 1 for index in calls if _prepares(ordered, index - 1)}
    for index, claim, node in zip(calls, claims, own, strict=True):
        if node is not None:
            rest = named[index] if node is claim else []
            named[index] = [node, *(one for one in rest if place[one.name] > place[node.name])]
            if index - 1 in layouts:
                named[index - 1] = [node]
    names = [name.rpartition(":")[0] for name, _ in ordered]
    rows = zip(names, named, strict=True)
    return [_row(name, about, index in layouts) for index, (name, about) in enumerate(rows)]


def _row(kernel: str, nodes: list[fx.Node], layout: bool) -> dict[str, Any]:
    sources = list(dict.fromkeys(source(node) for node in nodes))
    return {
        "kernel": kernel,
        "sources": sources,
        "operators": [kind(node) for node in nodes],
        "layout": layout,
    }


def _prepares(kernels: list[tuple[str, dict[str, list[str]]]], index: int) -> bool:
    """Whether a kernel of inductor's own has all the nodes of the convolution called next."""
    if index < 0 or "_fused" not in kernels[index][0]:
        return False
    own, following = (set(kernels[one][1]["post_grad_nodes"]) for one in (index, index + 1))
    return bool(following) and following <= own


def _claim(nodes: list[fx.Node]) -> fx.Node | None:
    """The convolution among nodes; if there is none, the last that one of them takes in."""
    inputs = [node for one in nodes for node in one.all_input_nodes]
    for some in (nodes, inputs):
        found = [node for node in some if node.target in CONVOLUTIONS]
        if found:
            return max(found)  # by their order in the graph
    return None


def _shared_out(nodes: list[fx.Node], claims: list[fx.Node | None]) -> list[fx.Node | None]:
    """Each call's convolution.

    One claimed twice stays with the call whose turn it is most nearly. If there are as many calls as
    convolutions, the calls left without take those left over, in order.
    """
    turn = {node: index for index, node in enumerate(nodes)}
    mine: dict[int, fx.Node] = {}
    for node in nodes:
        calls = [index for index, claim in enumerate(claims) if claim is node]
        if calls:
            mine[min(calls, key=lambda index: abs(index - turn[node]))] = node
    left = iter(
        [node for node in nodes if node not in set(mine.values())] if len(nodes) == len(claims) else []
    )
    return [mine[index] if index in mine else next(left, None) for index in range(len(claims))]
