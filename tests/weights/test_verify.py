"""`verify_checkpoint`: what it counts, hashes and records. Its findings: test_corruption.py."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.weights.small import edit_json, read_all, tiny_checkpoint

from perilune.formats.int4 import INT4
from perilune.weights import verify
from perilune.weights.manifest import MANIFEST_NAME, read_manifest
from perilune.weights.progress import Progress
from perilune.weights.verify import verify_checkpoint


def test_report_of_a_good_folder(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m", INT4)
    seen: list[Progress] = []
    report = verify_checkpoint(folder, progress=seen.append)
    assert report.as_json() == {
        "ok": True,
        "folder": str(folder),
        "tensors": len(read_all(folder)),
        "files": 2,
        "scales_checked": 4 * 3,
        "files_hashed": 3,
        "has_manifest": True,
        "errors": 0,
        "warnings": 0,
        "findings": [],
    }
    assert (
        seen[-1].done
        == seen[-1].total
        > sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    )


def test_manifest_holds_what_sha256sum_says(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest.keys() == {f.name for f in folder.glob("model*")}
    for name, record in manifest.items():
        raw = (folder / name).read_bytes()
        assert (record.nbytes, record.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())


def test_headers_only_reads_no_data(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m", INT4)
    report = verify_checkpoint(folder, headers_only=True)
    assert report.ok and (report.scales_checked, report.files_hashed) == (0, 0)


def test_record_makes_a_manifest_once(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    original = json.loads((folder / MANIFEST_NAME).read_text())
    (folder / MANIFEST_NAME).unlink()
    assert not verify_checkpoint(folder).has_manifest
    assert verify_checkpoint(folder, record=True).has_manifest
    recorded = json.loads((folder / MANIFEST_NAME).read_text())
    shards = {f.name for f in folder.glob("*.safetensors")}
    assert recorded["files"] == {n: original["files"][n] for n in shards}
    assert verify_checkpoint(folder).files_hashed == len(shards)


def test_very_many_findings_are_counted_not_listed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(verify, "MAX_FINDINGS", 5)
    folder = tiny_checkpoint(tmp_path / "m")
    edit_json(folder / "config.json", lambda raw: raw.update(hidden_size=256))
    report = verify_checkpoint(folder, headers_only=True)
    assert len(report.findings) == 5 < report.errors and not report.ok
    (folder / "a.bin").write_bytes(b"")
    again = verify_checkpoint(folder, headers_only=True)
    assert (again.errors, again.warnings) == (report.errors, 1)


def test_a_broken_folder_is_not_recorded(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    (folder / MANIFEST_NAME).unlink()
    shard = min(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert not verify_checkpoint(folder, record=True).ok
    assert not (folder / MANIFEST_NAME).exists()


def test_manifest_against_the_files(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    file = folder / MANIFEST_NAME
    good = json.loads(file.read_text())
    shard = min(folder.glob("*.safetensors")).name

    def messages(files: object) -> list[tuple[str, str | None]]:
        file.write_text(json.dumps({"version": 1, "files": files}))
        return [(f.severity, f.file) for f in verify_checkpoint(folder).findings]

    assert messages(good["files"]) == []
    absent = {**good["files"], "gone.safetensors": {"bytes": 1, "sha256": "0"}}
    assert messages(absent) == [("error", "gone.safetensors")]
    fewer = {n: r for n, r in good["files"].items() if n != shard}
    assert messages(fewer) == [("warning", shard)]
    longer = {**good["files"], shard: {"bytes": 1, "sha256": good["files"][shard]["sha256"]}}
    assert messages(longer) == [("error", shard)]
    for nonsense in (7, {"a": 7}, {"a": {"bytes": "x", "sha256": "y"}}):
        assert messages(nonsense) == [("error", MANIFEST_NAME)]
    outside = {"../x": {"bytes": 1, "sha256": "0"}}
    assert ("error", "m") in messages(outside)
