"""A source that is mapped from a store is the one that is read from it, and reads only pages."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from napari_cad.core.agglomerations import agglomerate
from napari_cad.core.store import SegmentationStore
from napari_cad.proofreading import source as source_module
from napari_cad.proofreading.graph import EditableGraph
from napari_cad.proofreading.session import ProofreadingSession
from napari_cad.proofreading.source import ProofreadingSource


@pytest.fixture(scope="module")
def store(tmp_path_factory, make_run):
    store = make_run(tmp_path_factory.mktemp("mapped") / "run.zarr")
    agglomerate(store, "median")
    return SegmentationStore.open(store.path)


@pytest.fixture
def both(store, monkeypatch):
    """Mapped, and as older versions read it."""
    mapped = ProofreadingSource.from_store(store, threshold=0.1)
    monkeypatch.setattr(source_module, "_mapped", lambda *_: None)
    return mapped, ProofreadingSource.from_store(store, threshold=0.1)


COLUMNS = ("u", "v", "mean", "area", "position", "join_score", "sizes", "boxes", "centroids")


def test_every_column_and_the_signature_are_the_same(both):
    mapped, read = both
    assert mapped.run is not None
    assert read.run is None
    for name in COLUMNS:
        ours, theirs = getattr(mapped, name), getattr(read, name)
        assert isinstance(ours, np.memmap)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    # so that sessions go on whichever way they were begun
    assert mapped.signature == read.signature
    assert (mapped.n_fragments, mapped.threshold) == (read.n_fragments, read.threshold)
    np.testing.assert_array_equal(mapped.base_lut(0.6), read.base_lut(0.6))


def test_edges_around_fragments_are_those_of_a_scan(both):
    rng = np.random.default_rng(0)
    for source in both:
        graph = EditableGraph(source)
        for n in (1, 3, 40):
            fragments = rng.choice(np.arange(1, source.n_fragments + 1), n, replace=False)
            expected = np.isin(source.u, fragments) | np.isin(source.v, fragments)
            np.testing.assert_array_equal(graph.edges_around(fragments), np.flatnonzero(expected))
            within = np.isin(source.u, fragments) & np.isin(source.v, fragments)
            np.testing.assert_array_equal(graph.edges_within(fragments), np.flatnonzero(within))


def test_it_travels_as_the_place_where_it_is(store):
    mapped = ProofreadingSource.from_store(store, threshold=0.1)
    sent = pickle.dumps(mapped)
    assert len(sent) < 1000
    again = pickle.loads(sent)  # noqa: S301 - our own
    assert again.signature == mapped.signature
    assert isinstance(again.u, np.memmap)
    assert again.threshold == 0.1


def test_the_same_edits_give_the_same_segments(both):
    luts = []
    for source in both:
        session = ProofreadingSession(source)
        edge = int(np.flatnonzero(session.lut[source.u] != session.lut[source.v])[0])
        a, b = (session.segment_of(int(column[edge])) for column in (source.u, source.v))
        session.merge([a, b])
        inside = np.flatnonzero(session.lut[source.u] == session.lut[source.v])
        red, blue = int(source.u[inside[5]]), int(source.v[inside[5]])
        session.apply_cut(session.preview_cut([red], [blue]), force=True)
        session.set_threshold(0.2)
        session.undo()
        luts.append(session.lut.copy())
        session.close()
    np.testing.assert_array_equal(*luts)
    assert len(np.unique(luts[0])) > 3
