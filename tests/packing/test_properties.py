"""Whatever is packed comes back, and whatever is unpacked is an archive or refused."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tfcompress import ArtifactError, pack, unpack
from tfcompress.exporters.publishing import is_inside
from tfcompress.packing import blocks
from tfcompress.packing.blocks import Span
from tfcompress.packing.stream import Damaged

# The same examples each time; a folder of a test is shared by its examples.
QUICK = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
NAMES = st.text("abcxyz019._- ", min_size=1, max_size=8).filter(
    lambda name: name.strip(". ") == name
)
CONTENTS = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda part, times: part * times, st.binary(max_size=8), st.integers(0, 99)
    ),
)


def archived(source):
    stream = io.BytesIO()
    pack(source, stream)
    stream.seek(0)
    return stream


@QUICK
@given(CONTENTS)
def test_files_come_back(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("file")
    (folder / "model.bin").write_bytes(content)
    back = unpack(archived(folder / "model.bin"), folder / "back")
    assert back.read_bytes() == content


@QUICK
@given(st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map(tuple), CONTENTS))
def test_folders_come_back(tmp_path_factory, files):
    folders = {name[:i] for name in files for i in range(1, len(name))}
    paths = {"/".join(name).casefold() for name in files}
    assume(not folders & set(files) and len(paths) == len(files))
    folder = tmp_path_factory.mktemp("folder")
    for name, content in files.items():
        path = folder.joinpath("model", *name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "model").mkdir(exist_ok=True)
    back = unpack(archived(folder / "model"), folder / "back")
    found = {
        path.relative_to(back).parts: path.read_bytes()
        for path in back.rglob("*")
        if path.is_file()
    }
    assert found == files


@QUICK
@given(st.data())
def test_arrays_come_back(data):
    width = data.draw(st.sampled_from([1, 2, 4, 8]))
    rows, columns = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    values = data.draw(st.lists(st.integers(0, 255), min_size=1, max_size=5))
    picks = data.draw(
        st.lists(
            st.sampled_from(values), min_size=rows * columns, max_size=rows * columns
        )
    )
    array = np.array(picks, f"<u{width}").tobytes()
    before = data.draw(st.binary(max_size=20))
    content = before + array + data.draw(st.binary(max_size=20))
    span = Span(len(before), width, rows, columns)
    assert blocks.decode(blocks.encode(content, [span]), len(content)) == content


@QUICK
@given(st.binary(max_size=200), st.integers(0, 5000))
def test_blocks_of_any_bytes_are_decoded_or_refused(payload, size):
    with contextlib.suppress(Damaged):
        assert len(blocks.decode(payload, size)) == size


@QUICK
@given(st.binary(max_size=200).map(lambda tail: b"\x89TFC\x01" + tail))
def test_no_other_bytes_are_unpacked(tmp_path, content):
    with pytest.raises(ArtifactError):
        unpack(io.BytesIO(content), tmp_path / "target")
    assert not (tmp_path / "target").exists()


@QUICK
@given(st.text("ab/.\\:~ \x00\u202e", max_size=8))
def test_names_that_are_inside_stay_inside(tmp_path, name):
    if is_inside(name):
        path = (tmp_path / name).resolve()
        assert tmp_path.resolve() in path.parents
