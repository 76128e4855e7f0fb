"""Pictures are kept once, whole, within bounds; a file that is lost or changed is noticed."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.agent.pictures.part import Picture, pictures_of, read_part, text_of
from perilune.agent.pictures.store import PictureLost, PictureStore, open_picture
from perilune.errors import MediaError, MediaFault
from tests.agent.drawn import image_part, jpeg, png, url


def test_a_picture_is_kept_once_and_closely(tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    first = store.keep(png(), "a.png")
    second = store.keep(png(), "b.png")
    assert (first.sha256, second.name) == (second.sha256, "b.png")
    (file,) = (tmp_path / "pictures").iterdir()
    assert file.name == first.file_name
    assert file.read_bytes() == png() == store.read(first)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("width", "height", "tokens"), [(1, 1, 1), (29, 28, 2), (1280, 720, 1196), (1024, 1024, 1369)]
)
def test_tokens_are_those_of_the_published_rule(width: int, height: int, tokens: int) -> None:
    picture = open_picture(png(width, height))
    assert (picture.width, picture.height, picture.tokens) == (width, height, tokens)


def test_formats_are_told_by_their_bytes(tmp_path: Path) -> None:
    picture = PictureStore(tmp_path).keep(jpeg(), "looks.png")
    assert (picture.mime, picture.file_name[-4:]) == ("image/jpeg", ".jpg")


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", MediaFault.EMPTY),
        (b"<svg onload=alert(1)>", MediaFault.FORMAT),
        (png()[:-20], MediaFault.TRUNCATED),
        (png() + b"PK\x03\x04", MediaFault.POLYGLOT),
    ],
)
def test_what_is_no_picture_is_not_kept(tmp_path: Path, data: bytes, fault: MediaFault) -> None:
    with pytest.raises(MediaError) as error:
        PictureStore(tmp_path).keep(data)
    assert error.value.kind is fault
    assert not (tmp_path / "pictures").exists()


def test_all_pictures_of_a_run_are_bounded(tmp_path: Path) -> None:
    store = PictureStore(tmp_path, most_bytes=len(png()) + 10)
    kept = store.keep(png())
    store.keep(png())  # it is there already
    with pytest.raises(MediaError) as error:
        store.keep(png(60, 60))
    assert error.value.kind is MediaFault.BYTES
    assert error.value.remedy
    assert store.read(kept) == png()


@pytest.mark.parametrize("harm", ["missing", "changed", "longer", "link", "folder"])
def test_a_lost_file_is_an_error_and_a_text(tmp_path: Path, harm: str) -> None:
    store = PictureStore(tmp_path)
    picture = store.keep(png(), "a.png")
    file = tmp_path / "pictures" / picture.file_name
    data = file.read_bytes()
    file.unlink()
    if harm == "changed":
        file.write_bytes(data[:-1] + b"x")
    elif harm == "longer":
        file.write_bytes(data + b"x")
    elif harm == "link":
        (tmp_path / "there").write_bytes(data)
        file.symlink_to(tmp_path / "there")
    elif harm == "folder":
        file.mkdir()
    lost: list[str] = []
    with pytest.raises(PictureLost):
        store.read(picture)
    (message,) = store.shown(
        [{"role": "user", "content": [picture.part]}], lambda each, why: lost.append(why)
    )
    assert "it is lost" in message["content"][0]["text"]
    assert len(lost) == 1
    if harm in ("missing", "changed", "longer"):
        assert store.keep(png()).sha256 == picture.sha256  # and mended by the same picture
        assert store.read(picture) == data


def test_content_goes_in_by_hash_and_comes_out_whole(tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    content = [{"type": "text", "text": "look"}, image_part(png(), name="a.png")]
    kept = store.kept(content)
    assert "base64" not in repr(kept)
    (picture,) = pictures_of(kept)
    assert picture.about == f"a.png, PNG, 56 x 28, {len(png())} bytes"
    (message,) = store.shown([{"role": "user", "content": kept}])
    assert message["content"][1] == {"type": "image_url", "image_url": {"url": url(png())}}
    bad = [image_part(b"nothing")]
    assert "[a picture was not taken: " in store.kept(bad)[0]["text"]
    with pytest.raises(MediaError):
        store.kept(bad, strict=True)


def test_a_part_of_a_stranger_names_no_file() -> None:
    part = open_picture(png()).part
    assert read_part(part) is not None
    for changed in (
        {"sha256": "../../etc/passwd"},
        {"mime": "image/../x"},
        {"bytes": "many"},
        {"tokens": -1},
    ):
        assert read_part({**part, **changed}) is None
    assert "[image]" in text_of([{**part, "sha256": "../x"}])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=20).map(lambda text: {"type": "text", "text": text}),
            st.tuples(st.integers(1, 90), st.integers(1, 90)).map(
                lambda size: image_part(png(*size))
            ),
            st.binary(max_size=30).map(image_part),
        ),
        max_size=5,
    )
)
def test_whatever_comes_is_kept_or_said(tmp_path_factory, parts) -> None:
    store = PictureStore(tmp_path_factory.mktemp("run"))
    kept = store.kept(parts)
    assert len(kept) == len(parts)
    (message,) = store.shown([{"role": "tool", "content": kept}])
    for before, after in zip(parts, message["content"], strict=True):
        if before["type"] == "text" or read_part(kept[parts.index(before)]):
            assert after == before
        else:
            assert after["type"] == "text"
    assert all(isinstance(each, Picture) for each in pictures_of(kept))
