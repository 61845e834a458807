"""Fold EfficientFormer-L1 for deployment and time it beside MobileNetV2, in one interleaved run."""

import torch

import efficientformer as ef
from efficientformer.latency.exports import exported
from efficientformer.latency.measure import measure_files
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
    names = ("efficientformer_l1", "timm/mobilenetv2_100")
    files = {name: exported(subject(name), target)[0] for name in names}
    for name, receipt in measure_files(files, target).items():
        print(f"{name}: {receipt}")


if __name__ == "__main__":
    main()
