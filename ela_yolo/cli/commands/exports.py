"""Commands that compare an exported file with its model: ``export`` and ``verify``."""

from __future__ import annotations

from typing import Any

from ela_yolo.cli.keys import Command, Key, export_format, switch
from ela_yolo.cli.saving import save_result
from ela_yolo.errors import UsageError
from ela_yolo.util.console import say
from ela_yolo.util.json import check_json_name


def export(given: dict[str, Any]) -> int:
    """Export a model and compare the file with it."""
    from ela_yolo.host.lookup import open_model
    from ela_yolo.parity.export import export_and_compare, export_file

    model, verify, source = given.pop("model"), given.pop("verify", True), given.pop("source", None)
    if not verify:
        if source is not None:
            raise UsageError(
                "source= chooses images to compare with, but verify=False skips that; leave one of them out"
            )
        export_file(open_model(model), given)
        return 0
    _, report = export_and_compare(model, given, source)
    return _print_parity(report, None, "ela-yolo verify save= names another place")


def verify(given: dict[str, Any]) -> int:
    """Compare an exported file with its model."""
    from ela_yolo.parity.verify import verify_export

    save = given.get("save")
    if save is not None:
        check_json_name(save)  # before the comparison
    report = verify_export(given["model"], given["against"], given.get("source"), given.get("data"))
    return _print_parity(report, save)


def _print_parity(report: Any, save: str | None, *remedy: str) -> int:
    say(f"\n{report}")
    save_result(lambda: report.save(save), save is not None, *remedy)
    return 0 if report.passed else 1


_SOURCE = Key(
    "source",
    "images/",
    "A folder of images, or one pattern such as 'images/*.jpg', with two images at least. The default is some images "
    "of data=, or photographs from Ultralytics.",
)

EXPORT = Command(
    "export",
    "model=best.pt format=onnx",
    "Export a model, then compare the file with the model.",
    "Ultralytics' own exporter writes the file. The file, in the runtime of its format, and the model then run on "
    "the same images, and every output and the detections are compared. The command prints a table, and writes it "
    "as JSON beside the file. It exits with 1 if the two differ by more than the precision explains.",
    (
        Key(
            "model",
            "best.pt",
            "The model: a checkpoint (.pt) or a model YAML.",
            required=True,
        ),
        Key(
            "format",
            "onnx",
            "onnx, torchscript, openvino, ncnn, mnn, litert or executorch. Ultralytics' other formats, such as engine "
            "(TensorRT) and coreml, need verify=False.",
            export_format,
            required=True,
        ),
        _SOURCE,
        Key(
            "data",
            "my.yaml",
            "A data-set YAML. The command compares the mAP of both on its validation images too. For int8, "
            "Ultralytics calibrates with it.",
        ),
        Key("verify", "False", "False skips the comparison.", switch),
    ),
    export,
    other_keys="All other keys are Ultralytics', such as dynamic=True, half=True, int8=True or nms=True. `yolo cfg` "
    "lists them.",
)

VERIFY = Command(
    "verify",
    "model=best.pt against=best.onnx",
    "Compare an exported file with its model.",
    "The file comes from `yolo export` or `ela-yolo export`. The command compares it with its model, as `ela-yolo "
    "export` does. The file, or the folder that OpenVINO, NCNN and ExecuTorch have, must keep the ending that "
    "Ultralytics gave it.\n\n"
    "A file with NMS in it is compared by the settings in its metadata, which every export of a model with ELA has. "
    "For other models, Ultralytics' defaults are assumed.",
    (
        Key("model", "best.pt", "The model that the file was made from.", required=True),
        Key("against", "best.onnx", "The exported file or folder.", required=True),
        _SOURCE,
        Key(
            "data",
            "my.yaml",
            "A data-set YAML. The command compares the mAP of both on its validation images too.",
        ),
        Key("save", "FILE.json", "The file to write. The default is best.onnx.parity.json, beside best.onnx."),
    ),
    verify,
)
