"""The report on an exported file: the differences between its outputs and its model's, and the verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path

from ela_yolo.parity.detections import NmsSettings
from ela_yolo.parity.outputs import OutputParity
from ela_yolo.parity.tolerances import MAX_MAP_LOSS, Tolerance
from ela_yolo.util.json import check_json_name, write_json
from ela_yolo.util.tables import markdown_table

SCHEMA = 2  # of the JSON; raised when a key changes its name or meaning
LISTED = 5  # unmatched detections, and non-finite outputs, that are printed; the JSON has all of them
HEADER = ("output", "shape", "max error", "mean error", "tolerance", "between images", "")


def report_path(exported: str | Path) -> Path:
    """Return the path of the report on an exported file, which lies beside the file."""
    return Path(f"{str(exported).rstrip('/')}.parity.json")


@dataclass(frozen=True)
class ParityReport:
    """The comparison of an exported file with its model; printed, it is a table and a verdict.

    Attributes:
        model: The file of the PyTorch weights.
        exported: The exported file or folder.
        task: The task of the model.
        tolerance: The tolerances of the file's precision.
        runtime: The packages that ran, by name and version.
        images: The names of the images that both ran on.
        inputs: The batches and sizes of the network's input: (batch, height, width), in px.
        outputs: The errors, an entry for each part of the outputs at each input size.
        detections: The number of the model's detections, over all inputs; for a classifier, of the images.
        unmatched: The detections of the model, or of the file, that the other one lacks, one line each.
        extra: How many of these only the file has.
        nonfinite: The outputs with values that are NaN or infinite, one line each; any of them fails the comparison.
        nms: The settings of the NMS in the file; None if it has no NMS.
        mismatches: The statements of the file's metadata that are wrong.
        scores: The metric on a data set: (name, the model's, the file's); None if it was not compared.
        notes: Remarks that do not decide, such as why mAP was not compared.
    """

    model: str
    exported: str
    task: str
    tolerance: Tolerance
    runtime: dict[str, str]
    images: tuple[str, ...]
    inputs: tuple[tuple[int, int, int], ...]
    outputs: tuple[OutputParity, ...]
    detections: int
    unmatched: tuple[str, ...] = ()
    extra: int = 0
    nonfinite: tuple[str, ...] = ()
    nms: NmsSettings | None = None
    mismatches: tuple[str, ...] = ()
    scores: tuple[str, float, float] | None = None
    notes: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[str, ...]:
        """The reasons why the file does not match; empty if it matches."""
        failures = list(self.mismatches)
        if self.nonfinite:
            more = len(self.nonfinite) - 1
            failures.append(self.nonfinite[0] + f" (and in {more} more places)" * (more > 0))
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
        if len(self.unmatched) > self.tolerance.unmatched * self.detections:
            failures.append(self._unmatched())
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
        """The result: ``matches within the float32 tolerance``, or ``does NOT match:`` and the reasons."""
        if self.passed:
            return f"matches within the {self.tolerance.precision} tolerance"
        return f"does NOT match: {'; '.join(self.failures)}"

    def __str__(self) -> str:
        limits = self.tolerance
        lines = [
            f"{self.exported} against {self.model}, {len(self.images)} images, {limits.precision}",
            markdown_table(HEADER, map(_cells, self.outputs)),
        ]
        if self.nms:
            lines.append(f"NMS in the file: {self.nms}")
        what = f"detections above {limits.confidence:g}"
        close = f"IoU {limits.match_iou:g}, score {limits.match_score:g}"
        if self.task == "classify":
            what, close = "images", "the class of the highest probability"
        lines.append(f"{what}: {self.detections} of the model; {self._unmatched()} ({close})")
        lines += [f"  {each}" for each in (*self.unmatched[:LISTED], *self.nonfinite[:LISTED])]
        if self.scores:
            lines.append(f"{self.scores[0]}: {self.scores[1]:.4f} by the model, {self.scores[2]:.4f} by the file")
        return "\n".join([*lines, *self.notes, f"the file {self.verdict}"])

    def _unmatched(self) -> str:
        lost = len(self.unmatched) - self.extra
        more = f", and {self.extra} that the file has in addition" if self.extra else ""
        return f"{lost} of {self.detections} have no counterpart in the file{more}"

    def save(self, file: str | Path | None = None) -> Path:
        """Write the report as JSON; None means ``report_path``, beside the exported file.

        Returns:
            The file.

        Raises:
            InputError: If the name does not end in ``.json``, or there is no such folder.
            OSError: If the file cannot be written.
        """
        file = report_path(self.exported) if file is None else check_json_name(file)
        outputs = [{**asdict(part), "verdict": part.verdict} for part in self.outputs]
        content = {"schema": SCHEMA, **asdict(self), "outputs": outputs}
        write_json(file, {**content, "passed": self.passed, "failures": self.failures})
        return file


def _cells(part: OutputParity) -> list[str]:
    return [
        f"{part.name} ({part.unit})",
        "x".join(map(str, part.shape)),
        f"{part.max_error:.2g}",
        f"{part.mean_error:.2g}",
        f"{part.tolerance:g}" if isfinite(part.tolerance) else "none",
        f"{part.contrast:.3g}",
        part.verdict,
    ]
