"""What sort of work an operator does, from the name that its runtime has for its kind."""

from __future__ import annotations

import re

from efficientformer.runtimes import Operator

SORTS = (
    "convolution",
    "matrix product",
    "softmax",
    "norm",
    "activation",
    "pooling",
    "elementwise",
    "shape",
    "conversion",
    "fallback",
    "other",
)
"""Every sort, in the order that legends have them."""

_ACTIVATIONS = (
    "gelu|fastgelu|quickgelu|erf|relu|relu6|prelu|leakyrelu|elu|selu|celu|silu|swish|hardswish|hswish"
    "|hardsigmoid|sigmoid|hardtanh|tanh|clip|clamp|mish|softplus"
)
_NORMS = "(native)?(layer|batch|instance|group|rms|lp|l2)norm(alization)?|normalize(l2)?|mvn|rms"
_SHAPES = (
    "reshape|transpose|permute|flatten|split|chunk|slice|stridedslice|crop|concat|concatenation|cat|squeeze"
    "|unsqueeze|expand|expanddims|expandas|view|gather|pad|shufflechannel|clone|contiguous|copy|select"
    "|unflatten|splitwithsizes|unbind|movedim|tile|repeat|stack"
)
_BROAD = ("Eltwise", "Subgraph", "Math")
_EXACT = {"activation": _ACTIVATIONS, "norm": _NORMS, "shape": _SHAPES}
_WITHIN = (
    ("convolution", r"conv(?!ert)"),
    (
        "matrix product",
        r"matmul|gemm|(?<!bi)(?<!tri)linear|fullyconnected|innerproduct|addmm|\bmm\b|bmm|einsum|attention|sdpa",
    ),
    ("softmax", r"softmax"),
    ("norm", r"norm"),
    ("activation", r"gelu|relu|swish|silu|sigmoid"),
    ("pooling", r"pool|mean|reduction"),
    ("elementwise", r"add|mul|sub|div|eltwise|binary|power|\bpow\b|sqrt|elementwise|subgraph"),
)


def kind_of(operator: Operator) -> str:
    """The kind for people: the runtime's word, or a narrower one.

    Where the runtime's word covers many (OpenVINO's `Eltwise`, `Subgraph`, `Math`) and nothing is fused in,
    the name that our ONNX files give each node tells which it is: `<module path>/<kind>_<number>`.
    """
    named = re.fullmatch(r"[^/]*/([A-Za-z][A-Za-z0-9]*)_\d+", operator.name)
    if named and operator.kind in _BROAD and ", with " not in operator.detail:
        return named[1]
    return operator.kind


def alone(operator: Operator) -> str | None:
    """`activation`, `norm` or `shape`, if an operator is nothing but that; None for any other."""
    kind = _plain(kind_of(operator))
    return next((sort for sort, names in _EXACT.items() if re.fullmatch(names, kind)), None)


def _plain(kind: str) -> str:
    """Letters and digits alone, lower case, without what some runtimes append in brackets."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"\(.*", "", kind).lower())


def sort_of(operator: Operator) -> str:
    """One of `SORTS`; what it converts and where it ran come first."""
    if operator.role != "compute":
        return {"convert": "conversion"}.get(operator.role, operator.role)
    found = alone(operator)
    if found:
        return found
    kind = _plain(kind_of(operator))
    return next((sort for sort, pattern in _WITHIN if re.search(pattern, kind)), "other")
