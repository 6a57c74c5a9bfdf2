"""Whatever a sample holds, it comes back from disk as it was."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from rsgen.geometry import Box
from rsgen.mask import Mask
from rsgen.records import Geo, Instance, Layout, Provenance, Sample, normal_name
from rsgen.tables import samples_from_table, samples_to_table

QUICK = settings(max_examples=50, deadline=None, derandomize=True, database=None)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
number = st.floats(allow_nan=False)
maybe = st.none()
strings = st.dictionaries(text, text, max_size=3)
scores = st.dictionaries(text, number, max_size=3)
point = st.tuples(number, number)
reasons = st.lists(text, max_size=3).map(tuple)


def mask(seed: int) -> Mask | None:
    rng = np.random.default_rng(seed)
    return Mask.from_array(rng.random((5, 7)) < 0.4, *rng.integers(-9, 9, 2).tolist())


instances = st.builds(
    Instance,
    label=words,
    box=maybe | st.builds(Box, number, number, number, number),
    quad=maybe | st.tuples(point, point, point, point),
    mask=maybe | st.integers(0, 99).map(mask),
    heading_rad=maybe | number,
    caption=maybe | text,
    attributes=strings,
    truncated=st.booleans(),
    difficult=st.booleans(),
    iscrowd=st.booleans(),
    scores=scores,
    reasons=reasons,
    origin=text,
)
samples = st.builds(
    Sample,
    id=words,
    layout=st.builds(
        Layout,
        st.integers(1, 10**6),
        st.integers(1, 10**6),
        st.lists(instances, max_size=3).map(tuple),
        maybe | number,
        maybe | text,
    ),
    image=maybe | words,
    sha256=maybe | text,
    prompt=maybe | text,
    attributes=strings,
    split=maybe | st.sampled_from(["train", "val", "test"]),
    geo=maybe | st.builds(Geo, maybe | text, st.tuples(*[number] * 6)),
    provenance=st.builds(
        Provenance,
        st.sampled_from(["real", "synthetic"]),
        maybe | words,
        maybe | words,
        maybe | st.integers(0, 2**63 - 1),
        maybe | words,
        maybe | words,
        maybe | words,
        reasons,
    ),
    scores=scores,
    verdict=maybe | st.sampled_from(["keep", "drop", "unknown"]),
    reasons=reasons,
)


def written(rows: list[Sample]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(samples_to_table(rows), sink)
    return sink.getvalue()


@QUICK
@given(st.lists(samples, max_size=3))
def test_parquet_round_trip_is_exact_and_repeatable(rows: list[Sample]) -> None:
    """Catches values that only survive in tidy cases: inf, empty strings, odd Unicode."""
    data = written(rows)
    assert list(samples_from_table(pq.read_table(pa.BufferReader(data)))) == rows
    assert written(rows) == data, "the same records must give the same bytes"


@QUICK
@given(text)
def test_normal_names_are_stable(name: str) -> None:
    """Catches a spelling that meets itself only after two rounds."""
    assert normal_name(normal_name(name)) == normal_name(name)
