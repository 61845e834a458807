"""The paper's four observations as experiments on a device. A new experiment is a few lines in `EXPERIMENTS`.

    efficientformer study --target onnxruntime --out study

The paper compares published networks, which differ in more than one thing (`observations.py`). Here the two
of a pair differ in one, so that the answer is that thing's; what else differs, such as multiply-accumulates
(MACs), is told by `about`.
"""

from __future__ import annotations

from efficientformer.study import variants as of
from efficientformer.study.experiment import Experiment, Follows, way

IMAGE = (3, 224, 224)
STAGE1, STAGE3, STAGE4 = (48, 56, 56), (224, 14, 14), (448, 7, 7)  # maps of L1's stages

_STEM = Follows(
    faster="Start with {variant}: the large kernel is the slower choice here.",
    slower="No gain here: {baseline} costs less, and a stack of 3×3 must earn its time in accuracy.",
    equal="Choose between {variant} and {baseline} by accuracy: time does not decide here.",
)
_LAYOUT = Follows(
    faster="This is the faster layout here: write such blocks this way for this device.",
    slower="Keep to 1×1 convolutions on maps: this way costs time here.",
    equal="The layout is no concern here: blocks and mixers may be chosen by accuracy.",
)
_HEADS = Follows(
    faster="This way saves time over attention as it is deployed.",
    slower="Keep attention on the map, as it is deployed: this way costs time here.",
    equal="Attention may be laid out either way here.",
)
_ATTENTION = Follows(
    faster="Attention is a good buy here: less time than pooling blocks that compute as much.",
    slower="Use attention sparingly at this size: pooling blocks compute as much in less time.",
    equal="Attention is no bottleneck at this size: it costs what its multiply-accumulates cost.",
)
_NORM = Follows(
    faster="No reason to avoid it here: it is faster than a convolution with its batch norm folded.",
    slower="Keep to convolutions with batch norm, which folds away: this takes longer here.",
    equal="No concern for time here: choose it by accuracy.",
)
_PRODUCTS = "No choice, but a comparison: what is missing is what the products and the softmax take."
_LINEAR = "No choice, but a comparison: a linear against a convolution, without any norm."
_ACTIVATION = Follows(
    faster="{variant} saves time over GELU here: worth a training run.",
    slower="Avoid {variant} here: GELU costs less.",
    equal="{variant} is within 10 % of GELU here: choose by accuracy.",
)

EXPERIMENTS = (
    Experiment(
        "patch-16",
        1,
        "To 1/16 of the resolution: one 16×16 convolution, or a stack of four 3×3",
        "3×224×224 in, 256×14×14 out. LeViT-256’s stack does 4.8 times the MACs; the thin one about as many.",
        way("one 16×16 convolution", IMAGE, of.patches, 256, 16, 16),
        (
            way(
                "four 3×3, LeViT-256’s widths",
                IMAGE,
                of.stack,
                32,
                64,
                128,
                256,
                expect="faster",
                paper="0.52",
            ),
            way("four 3×3, thin (12, 24, 48)", IMAGE, of.stack, 12, 24, 48, 256, expect="faster"),
        ),
        _STEM,
    ),
    Experiment(
        "patch-7",
        1,
        "To 1/4 of the resolution: PoolFormer’s 7×7 convolution, or two 3×3",
        "3×224×224 in, 48×56×56 out. L1’s stem does 1.8 times the MACs; the thin one about as many.",
        way("one 7×7 convolution, stride 4", IMAGE, of.patches, 48, 7, 4, 2),
        (
            way("two 3×3, L1’s stem", IMAGE, of.stack, 24, 48, expect="faster"),
            way("two 3×3, thin (12)", IMAGE, of.stack, 12, 48, expect="faster"),
        ),
        _STEM,
    ),
    Experiment(
        "patch-4",
        1,
        "To 1/4 of the resolution: patches of 4×4, or two 3×3",
        "3×224×224 in, 48×56×56 out. L1’s stem does 5.6 times the MACs; the thin one about as many.",
        way("one 4×4 convolution", IMAGE, of.patches, 48, 4, 4),
        (
            way("two 3×3, L1’s stem", IMAGE, of.stack, 24, 48, expect="faster"),
            way("two 3×3, thin (4)", IMAGE, of.stack, 4, 48, expect="faster"),
        ),
        _STEM,
    ),
    Experiment(
        "stage-1-layout",
        2,
        "Three pooling blocks at 56×56: maps throughout, or each MLP on tokens",
        "The same weights and results; only the layout changes, twice in each block.",
        way("maps throughout", STAGE1, of.pool_stage, 48, 56, 3),
        (way("reshapes in each block", STAGE1, of.pool_stage, 48, 56, 3, expect="slower", reshaping=True),),
        _LAYOUT,
    ),
    Experiment(
        "stage-3-layout",
        2,
        "Six pooling blocks at 14×14: maps throughout, or each MLP on tokens",
        "The same weights and results; only the layout changes, twice in each block.",
        way("maps throughout", STAGE3, of.pool_stage, 224, 14, 6),
        (way("reshapes in each block", STAGE3, of.pool_stage, 224, 14, 6, expect="slower", reshaping=True),),
        _LAYOUT,
    ),
    Experiment(
        "mlp-layout",
        2,
        "Six MLPs at 14×14: all on maps, all on tokens, or by turns",
        "The same weights and results. Tokens alone tell what linears cost against 1×1 convolutions; taking "
        "turns, as in LeViT, adds the reshapes.",
        way("1×1 convolutions on maps", STAGE3, of.mlps, 224, 14, 6, "maps"),
        (
            way("linears on tokens", STAGE3, of.mlps, 224, 14, 6, "tokens"),
            way("by turns, as LeViT", STAGE3, of.mlps, 224, 14, 6, "alternating", expect="slower"),
        ),
        _LAYOUT,
    ),
    Experiment(
        "attention-7",
        2,
        "At 7×7, 448 wide: an attention block against a pooling block",
        "As many MACs: the pooling block’s expansion is 7, not 4. Attention comes with two LayerNorms.",
        way("pooling block", STAGE4, of.pool_block, 448, 7, 7),
        (way("attention block", STAGE4, of.attention_block, 448, 7, expect="no slower"),),
        _ATTENTION,
    ),
    Experiment(
        "attention-14",
        2,
        "At 14×14, 224 wide: an attention block against a pooling block",
        "As many MACs within 2 %: the pooling block’s expansion is 12. Attention comes with two LayerNorms.",
        way("pooling block", STAGE3, of.pool_block, 224, 14, 12),
        (way("attention block", STAGE3, of.attention_block, 224, 14, expect="no slower"),),
        _ATTENTION,
    ),
    Experiment(
        "heads-7",
        2,
        "Inside attention at 7×7: its transposes apart from its products",
        "The same weights and results, but for the last: what is left without the products and softmax.",
        way("on the map, no transposes", STAGE4, of.mixer, 448, 7),
        (
            way("reshaped around the products", STAGE4, of.mixer, 448, 7, "reshaped", expect="slower"),
            way("on tokens, heads transposed", STAGE4, of.mixer, 448, 7, "tokens", expect="slower"),
            way("without the products", STAGE4, of.mixer, 448, 7, "without", follows=_PRODUCTS),
        ),
        _HEADS,
    ),
    Experiment(
        "heads-14",
        2,
        "Inside attention at 14×14: its transposes apart from its products",
        "The same weights and results, but for the last: what is left without the products and softmax.",
        way("on the map, no transposes", STAGE3, of.mixer, 224, 14),
        (
            way("reshaped around the products", STAGE3, of.mixer, 224, 14, "reshaped", expect="slower"),
            way("on tokens, heads transposed", STAGE3, of.mixer, 224, 14, "tokens", expect="slower"),
            way("without the products", STAGE3, of.mixer, 224, 14, "without", follows=_PRODUCTS),
        ),
        _HEADS,
    ),
    Experiment(
        "l1-layout",
        2,
        "Inside L1: maps throughout, or the MLP of each of its 14 pooling blocks on tokens",
        "The same weights and results; the whole network at 224×224.",
        way("L1, maps throughout", IMAGE, of.l1),
        (way("L1, reshapes in each block", IMAGE, of.l1_reshaped, expect="slower"),),
        _LAYOUT,
    ),
    Experiment(
        "norm-stage-1",
        3,
        "At 56×56, 48 to 192 wide: a 1×1 convolution with each norm",
        "The same MACs. Every norm’s scale and shift are folded into the weights; the rest is computed.",
        way("convolution, BN folded", STAGE1, of.conv_norm, 48, 192),
        (
            way("linear alone, tokens", (1, 3136, 48), of.linear, 48, 192, follows=_LINEAR, normed=False),
            way(
                "LayerNorm, linear, tokens",
                (1, 3136, 48),
                of.linear,
                48,
                192,
                expect="slower",
                normed=True,
            ),
            way("GroupNorm, convolution", STAGE1, of.norm_conv, 48, 192, "group", expect="slower"),
            way(
                "LayerNorm on map, convolution",
                STAGE1,
                of.norm_conv,
                48,
                192,
                "layer",
                expect="slower",
            ),
        ),
        _NORM,
    ),
    Experiment(
        "norm-stage-3",
        3,
        "At 14×14, 224 to 896 wide: a 1×1 convolution with each norm",
        "The same MACs. Every norm’s scale and shift are folded into the weights; the rest is computed.",
        way("convolution, BN folded", STAGE3, of.conv_norm, 224, 896),
        (
            way("linear alone, tokens", (1, 196, 224), of.linear, 224, 896, follows=_LINEAR, normed=False),
            way(
                "LayerNorm, linear, tokens",
                (1, 196, 224),
                of.linear,
                224,
                896,
                expect="slower",
                normed=True,
            ),
            way("GroupNorm, convolution", STAGE3, of.norm_conv, 224, 896, "group", expect="slower"),
            way(
                "LayerNorm on map, convolution",
                STAGE3,
                of.norm_conv,
                224,
                896,
                "layer",
                expect="slower",
            ),
        ),
        _NORM,
    ),
    Experiment(
        "l1-norms",
        3,
        "Inside L1: batch norms in the MLPs, folded, or one norm before each MLP that does not fold",
        "The same MACs; the whole network at 224×224, its 14 pooling blocks changed.",
        way("L1, BN folded", IMAGE, of.l1),
        (
            way(
                "L1, GroupNorm before each MLP",
                IMAGE,
                of.l1_normed,
                "group",
                expect="slower",
                paper="1.11–1.25",
            ),
            way(
                "L1, LayerNorm before each MLP",
                IMAGE,
                of.l1_normed,
                "layer",
                expect="slower",
                paper="1.11–1.25",
            ),
        ),
        _NORM,
    ),
    Experiment(
        "activation-stage-1",
        4,
        "Between two 1×1 convolutions at 56×56, 48 to 192 to 48 wide",
        "Only the activation differs. The paper has no figures for tanh-GELU and SiLU.",
        way("GELU", STAGE1, of.activated, 48, "gelu"),
        (
            way("ReLU", STAGE1, of.activated, 48, "relu", expect="faster"),
            way("HardSwish", STAGE1, of.activated, 48, "hardswish", expect="slower"),
            way("SiLU", STAGE1, of.activated, 48, "silu"),
            way("tanh-GELU", STAGE1, of.activated, 48, "gelu_tanh"),
        ),
        _ACTIVATION,
    ),
    Experiment(
        "l1-activation",
        4,
        "Inside L1: the activation of all its MLPs",
        "Only the activation differs. The paper’s figures are for L3; it has none for tanh-GELU and SiLU.",
        way("GELU", IMAGE, of.l1),
        (
            way("ReLU", IMAGE, of.l1, "relu", expect="faster", paper="0.83 (L3)"),
            way("HardSwish", IMAGE, of.l1, "hardswish", expect="slower", paper="10.8 (L3)"),
            way("SiLU", IMAGE, of.l1, "silu"),
            way("tanh-GELU", IMAGE, of.l1, "gelu_tanh"),
        ),
        _ACTIVATION,
    ),
)
"""Every experiment, by observation."""
