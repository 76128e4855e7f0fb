"""Is a checkpoint folder what it should be? Collects everything that is wrong, instead of raising.

Checked: configuration, index, every header against its file, every tensor against the table of
the configuration, every scale for NaN and infinity, every `weight_shape`, every file against
the manifest where there is one. Nothing in the folder is imported, executed or unpickled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from perilune.config import checkpoint_file
from perilune.errors import CheckpointError, CorruptFileError
from perilune.formats import Role, role_of
from perilune.weights.checkpoint import Checkpoint, mismatches, open_checkpoint
from perilune.weights.load import check_values
from perilune.weights.manifest import (
    MANIFEST_NAME,
    FileRecord,
    compare_record,
    manifest_text,
    read_manifest,
    record_file,
)
from perilune.weights.progress import ByteCounter, ProgressCallback
from perilune.weights.reader import TensorReader

MAX_FINDINGS = 1000  # a wrong config.json makes 200,000 of them
Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong (error) or worth knowing (warning)."""

    severity: Severity
    kind: str  # the class of the error that `load_model` would raise, or of the warning
    file: str | None
    tensor: str | None
    message: str
    remedy: str = ""


@dataclass(slots=True)
class Report:
    """What `verify_checkpoint` saw. `ok` says that `load_model` would succeed."""

    folder: str
    tensors: int = 0
    files: int = 0
    scales_checked: int = 0
    files_hashed: int = 0
    has_manifest: bool = False
    errors: int = 0
    warnings: int = 0
    findings: list[Finding] = field(default_factory=list)  # the first MAX_FINDINGS of them

    @property
    def ok(self) -> bool:
        return self.errors == 0

    def as_json(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}

    def add(self, finding: Finding) -> None:
        """Count a finding, and keep it unless there are very many; the same one counts once."""
        if len(self.findings) < MAX_FINDINGS:
            if finding in self.findings:
                return
            self.findings.append(finding)
        self.errors += finding.severity == "error"
        self.warnings += finding.severity == "warning"

    def error(self, error: CheckpointError, severity: Severity = "error") -> None:
        file = error.file.name if error.file else None
        kind = type(error).__name__
        self.add(Finding(severity, kind, file, error.tensor, error.detail, error.remedy))


def verify_checkpoint(
    folder: str | Path,
    *,
    headers_only: bool = False,
    record: bool = False,
    progress: ProgressCallback | None = None,
) -> Report:
    """Check a folder. `headers_only` reads no tensor and no hash: seconds at any size.

    `record` writes a manifest where there is none and nothing is wrong.
    """
    folder = Path(folder)
    report = Report(str(folder))
    try:
        checkpoint = open_checkpoint(folder, problem=report.error)
        report.tensors, report.files = len(checkpoint.tensors), len(checkpoint.files)
        for warning in checkpoint.warnings:
            kind = type(warning).__name__
            report.add(Finding("warning", kind, warning.file.name, None, warning.message))
        if report.ok:  # with a file missing, hundreds of tensors would be named for it
            for mismatch in mismatches(checkpoint):
                report.error(mismatch)
        if not headers_only:
            _check_data(checkpoint, report, record, progress)
    except CheckpointError as error:
        report.error(error)
    return report


def _check_data(
    checkpoint: Checkpoint, report: Report, record: bool, progress: ProgressCallback | None
) -> None:
    manifest = read_manifest(checkpoint.folder)
    report.has_manifest = manifest is not None
    small = [
        stored
        for stored in checkpoint.tensors.values()
        if role_of(stored.name) in (Role.SCALE, Role.SHAPE)
    ]
    small.sort(key=lambda stored: (stored.file, stored.start))
    hashed = _files_to_hash(checkpoint, manifest, record and report.ok, report)
    total = sum(stored.nbytes for stored in small) + sum(f.stat().st_size for f in hashed)
    counter = ByteCounter(total, progress)
    with TensorReader(count=counter.add) as reader:
        for stored in small:
            try:
                check_values(checkpoint.tensors, stored, reader.read(stored))
                report.scales_checked += role_of(stored.name) is Role.SCALE
            except CheckpointError as error:
                report.error(error)
    records = _hash(hashed, manifest, report, counter.add)
    if manifest is None and record and report.ok:
        (checkpoint.folder / MANIFEST_NAME).write_text(manifest_text(records), "utf-8")
        report.has_manifest = True


def _files_to_hash(
    checkpoint: Checkpoint,
    manifest: dict[str, FileRecord] | None,
    record: bool,
    report: Report,
) -> list[Path]:
    if manifest is None:
        return list(checkpoint.files) if record else []
    files = []
    for name in manifest:
        try:
            file = checkpoint_file(checkpoint.folder, name)
            if file is None:
                raise CorruptFileError(
                    "is in the manifest, but missing", file=checkpoint.folder / name
                )
            files.append(file)
        except CheckpointError as error:
            report.error(error)
    for file in checkpoint.files:
        if file.name not in manifest:
            unknown = CorruptFileError(
                "is not in the manifest",
                file=file,
                remedy=f"Delete {MANIFEST_NAME} and record it again",
            )
            report.error(unknown, "warning")
    return files


def _hash(
    files: list[Path],
    manifest: dict[str, FileRecord] | None,
    report: Report,
    count: Callable[[int], None],
) -> dict[str, FileRecord]:
    records = {}
    for file in files:
        found = records[file.name] = record_file(file, count)
        report.files_hashed += 1
        wrong = compare_record(file, found, manifest[file.name]) if manifest else None
        if wrong is not None:
            report.error(wrong)
    return records
