"""Fold EfficientFormer-L1 for deployment and time it beside MobileNetV2, in one interleaved run."""

import torch

import efficientformer as ef
from efficientformer.latency.measure import measure
from efficientformer.latency.subjects import subject
from efficientformer.latency.target import Target


def main() -> None:
    model = ef.create_model("efficientformer_l1")
    folded = ef.fold(model)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        difference = (folded(images) - model(images)).abs().max().item()
    print(f"folded: {sum(p.numel() for p in folded.parameters()):,} weights, differs by {difference:.1e}")

    target = Target.parse("onnxruntime:cpu:threads=1")
    subjects = [subject(name, target) for name in ("efficientformer_l1", "timm/mobilenetv2_100")]
    for name, receipt in measure({one.name: one.call for one in subjects}, target).items():
        print(f"{name}: {receipt}")


if __name__ == "__main__":
    main()
