"""Train a small network on handwritten digits, and score it beside its exported file."""

import tempfile
from pathlib import Path

from efficientformer.evaluation.run import evaluate_named
from efficientformer.latency.artefact import export, random_images
from efficientformer.latency.target import Target
from efficientformer.model.checkpoint import load_model
from efficientformer.pipeline.demo import write_digits
from efficientformer.pipeline.train import train
from efficientformer.pipeline.train_job import TrainJob
from efficientformer.training.recipes import recipe_of


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        digits, out = Path(folder) / "digits", Path(folder) / "run"
        write_digits(digits)
        recipe = recipe_of("short", {"epochs": 2, "input_size": 64, "flip": False, "warmup_epochs": 0.5})
        job = TrainJob("efficientformerv2_s0", digits, recipe, logs=())
        summary = train(job, out)
        print(f"trained: {summary['top1']:.1%} of {summary['images']} images")

        network = load_model(out / "model.safetensors")
        image = (3, *network.architecture.input_size)
        export(
            network, out / "model.onnx", Target.parse("onnxruntime"), random_images(image), photographs=False
        )
        for name in (out, out / "model.onnx"):
            accuracy = evaluate_named(str(name), digits).accuracy
            print(f"{name.name}: {accuracy.score}, calibration error {accuracy.calibration_error:.3f}")


if __name__ == "__main__":
    main()
