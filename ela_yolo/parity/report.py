"""The report on an exported file: how far its outputs and detections are from its model's, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path

from ela_yolo.parity.detections import NmsSettings
from ela_yolo.parity.outputs import OutputParity
from ela_yolo.parity.tolerances import MAX_MAP_LOSS, Tolerance
from ela_yolo.util.json import write_json

SCHEMA = 1  # of the JSON; raised when a key changes its name or meaning
LISTED = 5  # detections without a counterpart, and the like, that are printed; all are in the JSON


def report_path(exported: str | Path) -> Path:
    """Return where the report on an exported file is written: beside it."""
    return Path(f"{str(exported).rstrip('/')}.parity.json")


@dataclass(frozen=True)
class Unmatched:
    """A detection that one side has and the other lacks.

    Attributes:
        image: Where.
        side: Who has it: ``model`` or ``file``.
        name: Its class.
        score: Its score.
        box: As the model gives it after NMS, in px of the network's input.
    """

    image: str
    side: str
    name: str
    score: float
    box: tuple[float, ...]

    def __str__(self) -> str:
        box = " ".join(f"{value:.1f}" for value in self.box)
        return f"only the {self.side} has {self.name} {self.score:.3f} at {box} in {self.image}"


@dataclass(frozen=True)
class NonFinite:
    """Values that are NaN or infinite.

    Attributes:
        image: Where.
        side: Who gives them: ``model``, or ``file`` where the model's are finite.
        output: Which of the outputs, counted from 0.
        values: How many.
        of: How many values this output has.
    """

    image: str
    side: str
    output: int
    values: int
    of: int

    def __str__(self) -> str:
        whose = "the file alone gives" if self.side == "file" else "the model itself gives"
        return f"{whose} {self.values} of {self.of} values that are not finite in output {self.output} of {self.image}"


@dataclass(frozen=True)
class LayerParity:
    """How far the output of one layer differs between file and model.

    Attributes:
        layer: Its number.
        module: What it is, such as ``C2f`` or ``ELA-B identity``.
        shape: Of its output, for one batch.
        error: Largest absolute difference, as a share of the model's largest absolute value; NaN where the file's
            values are not finite.
        tolerance: The largest error that passes.
    """

    layer: int
    module: str
    shape: tuple[int, ...]
    error: float
    tolerance: float

    @property
    def verdict(self) -> str:
        """``same`` or ``differs``."""
        return "same" if self.error <= self.tolerance else "differs"  # NaN differs

    def __str__(self) -> str:
        return f"layer {self.layer} {self.module}: error {self.error:.2g} of its largest value"


@dataclass(frozen=True)
class ParityReport:
    """How an exported file compares with its model; ``str()`` of it is a table and a verdict.

    Attributes:
        model: The PyTorch weights.
        exported: The exported file or folder.
        sha256: Of the exported file, or of a folder's files and their names, so that a change shows.
        task: The task of the model.
        tolerance: What passes for the same, and why.
        runtime: What ran: package -> version.
        images: The images that went through both.
        inputs: The batches and sizes that they had: (batch, height, width).
        outputs: One entry a part of the outputs and an input size.
        detections: How many the model finds in the images (for a classifier: how many images); None for a task that
            has none.
        unmatched: Those of the model, or of the file, without a counterpart in the other.
        nonfinite: Values that are NaN or infinite, by image; any of them fails.
        nms: What NMS within the file was told; None where it has none.
        mismatches: What the file says of itself that is not so, or why it is not valid.
        scores: The metric of both on a data set, (name, model's, file's); None if no data set was given.
        layers: The outputs of the layers in their order, where they were asked for; they do not decide.
        notes: What else was looked at, and does not decide.
    """

    model: str
    exported: str
    sha256: str
    task: str
    tolerance: Tolerance
    runtime: dict[str, str]
    images: tuple[str, ...]
    inputs: tuple[tuple[int, int, int], ...]
    outputs: tuple[OutputParity, ...]
    detections: int | None
    unmatched: tuple[Unmatched, ...]
    nonfinite: tuple[NonFinite, ...] = ()
    nms: NmsSettings | None = None
    mismatches: tuple[str, ...] = ()
    scores: tuple[str, float, float] | None = None
    layers: tuple[LayerParity, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[str, ...]:
        """Every reason why the file does not match; empty if it does."""
        failures = list(self.mismatches)
        if self.nonfinite:
            more = len(self.nonfinite) - 1
            failures.append(str(self.nonfinite[0]) + f" (and in {more} more places)" * (more > 0))
        failures += [
            f"{part.name} differ by {part.max_error:.2g} {part.unit}, more than {part.tolerance:g}"
            for part in self.outputs
            if part.verdict == "differs"
        ]
        if alike := dict.fromkeys(part.name for part in self.outputs if part.verdict == "too alike"):
            failures.append(
                f"different images give almost the same {' and '.join(alike)}, so equal outputs show nothing; "
                "train the model first"
            )
        if self.detections is not None:
            if len(self.unmatched) > self.tolerance.unmatched * self.detections:
                failures.append(f"{len(self.unmatched)} of {self.detections} detections have no counterpart")
            if not self.detections:
                failures.append("the model finds nothing in these images; name others with source=")
        if self.scores and not self.scores[1] - self.scores[2] <= MAX_MAP_LOSS:
            name, of_model, of_file = self.scores
            failures.append(f"{name} falls from {of_model:.3f} to {of_file:.3f}, by more than {MAX_MAP_LOSS:g}")
        return tuple(failures)

    @property
    def passed(self) -> bool:
        """Whether the file matches its model within the tolerance of its precision."""
        return not self.failures

    @property
    def verdict(self) -> str:
        """The result in words: ``matches within the float32 tolerance``, or ``does NOT match: ...`` and why."""
        if self.passed:
            return f"matches within the {self.tolerance.precision} tolerance"
        return f"does NOT match: {'; '.join(self.failures)}"

    def __str__(self) -> str:
        limits = self.tolerance
        lines = [
            f"{self.exported} against {self.model}, {len(self.images)} images, {limits.precision}",
            *_table(self.outputs),
        ]
        if self.nms:
            lines.append(f"NMS in the file: {self.nms}")
        if self.detections is not None:
            what = f"detections above {limits.confidence:g}"
            close = f"IoU {limits.match_iou:g}, score {limits.match_score:g}"
            if self.task == "classify":
                what, close = "images", "the class of the highest probability"
            lines.append(f"{what}: {self.detections}, {len(self.unmatched)} without a counterpart ({close})")
            lines += [f"  {each}" for each in self.unmatched[:LISTED]]
        lines += [f"  {each}" for each in self.nonfinite[:LISTED]]
        if self.scores:
            lines.append(f"{self.scores[0]}: {self.scores[1]:.4f} by the model, {self.scores[2]:.4f} by the file")
        if self.layers:
            lines.append(self._first_layer_that_differs())
        return "\n".join([*lines, *self.notes, f"the file {self.verdict}"])

    def _first_layer_that_differs(self) -> str:
        found = next((each for each in self.layers if each.verdict == "differs"), None)
        compared = f"{len(self.layers)} layers compared in order"
        if found is None:
            largest = max(self.layers, key=lambda each: each.error)
            return f"{compared}: all within {largest.tolerance:g}; the largest is {largest}"
        return f"{compared}: the first that differs is {found} (more than {found.tolerance:g})"

    def save(self) -> Path:
        """Write the report as JSON beside the exported file and return its path."""
        file = report_path(self.exported)
        parts = {
            key: [{**asdict(each), "verdict": each.verdict} for each in getattr(self, key)]
            for key in ("outputs", "layers")
        }
        write_json(
            file,
            {"schema": SCHEMA, **asdict(self), **parts, "passed": self.passed, "failures": self.failures},
        )
        return file


def _table(outputs: tuple[OutputParity, ...]) -> Iterator[str]:
    rows = [("output", "shape", "max error", "mean error", "tolerance", "between images", "")]
    for part in outputs:
        rows.append(
            (
                f"{part.name} ({part.unit})",
                "x".join(map(str, part.shape)),
                f"{part.max_error:.2g}",
                f"{part.mean_error:.2g}",
                f"{part.tolerance:g}" if isfinite(part.tolerance) else "none",
                f"{part.contrast:.3g}",
                part.verdict,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
