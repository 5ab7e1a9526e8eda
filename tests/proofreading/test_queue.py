"""The queue of questions: ranked as it says, and answered questions do not come back."""

from __future__ import annotations

import numpy as np
import pytest

from napari_cad.proofreading import questions
from napari_cad.proofreading import queue as queue_module
from napari_cad.proofreading.queue import UncertaintyQueue
from napari_cad.proofreading.session import ProofreadingSession
from napari_cad.proofreading.source import ProofreadingSource
from napari_cad.proofreading.suspects import confirm_end, ends_inside

SCALE = queue_module._CLOSENESS_SCALE


def questions_by_hand(session, band):
    """Every question with its priority, from pairs of parts at every join score.

    Join scores are of the kind that a merge tree gives: of two fragments, the score at which they
    come together.
    """
    graph, lut, t = session.graph, session.lut, session.threshold
    found = {}

    def ask(edges, distance, sizes, *, joined):
        area = graph.area[edges].sum()
        affinity = (graph.mean[edges].astype(float) * graph.area[edges]).sum() / area
        weight = (1 - affinity if joined else affinity) ** 2
        best = max(edges, key=lambda e: graph.mean[e] * float(graph.area[e]))
        found[best] = np.exp(-distance / SCALE) * weight * min(sizes)

    def sizes_of(lut, ids):
        return [int(graph.size[lut == i].sum()) for i in ids]

    pairs = {}
    for e in range(graph.n_edges):
        a, b = sorted((lut[graph.u[e]], lut[graph.v[e]]))
        if a != b and graph.join[e] <= t + band:
            pairs.setdefault((a, b), []).append(e)
    for ids, edges in pairs.items():
        distance = min(graph.join[e] for e in edges) - t
        ask(edges, distance, sizes_of(lut, ids), joined=False)
    for score in np.unique(graph.join[(graph.join >= t - band) & (graph.join < t)]):
        before = session.source.base_lut(float(score))
        joins = {}
        for e in np.flatnonzero(graph.join == score):
            ids = sorted((before[graph.u[e]], before[graph.v[e]]))
            joins.setdefault(tuple(ids), []).append(e)
        # scores are all different here: one join at a time
        ((ids, edges),) = joins.items()
        ask(edges, t - score, sizes_of(before, ids), joined=True)
    return found


def tree_source(seed: int, n: int = 30) -> ProofreadingSource:
    """A random merge tree over fragments in a row of sections, with every join score once."""
    rng = np.random.default_rng(seed)
    group = np.arange(n + 1)
    join = np.full((n + 1, n + 1), np.inf)
    for score in np.sort(rng.uniform(0, 1, n - 1)).astype(np.float32):
        a, b = rng.choice(np.unique(group[1:]), 2, replace=False)
        across = np.ix_(group == a, group == b)
        join[across] = score
        join[np.ix_(group == b, group == a)] = score
        group[group == b] = a
    u, v = np.triu_indices(n, 1)
    u, v = u + 1, v + 1
    score = join[u, v]
    # some contacts are missing, but each join keeps one
    kept = rng.random(len(u)) < 0.5
    _, first = np.unique(score, return_index=True)
    kept[first] = True
    u, v, score = u[kept], v[kept], score[kept]
    return ProofreadingSource.from_arrays(
        u, v, rng.uniform(0, 1, len(u)), score, area=rng.integers(1, 50, len(u)), threshold=0.5,
        sizes=[0, *rng.integers(1, 1000, n).tolist()],
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_questions_are_ranked_by_closeness_times_size(seed):
    session = ProofreadingSession(tree_source(seed))
    band = 0.3
    expected = questions_by_hand(session, band)
    ranked = UncertaintyQueue(session, band=band).ranked()
    # which edge stands for a join within a segment may differ where several lie across
    assert len(ranked) == len(expected)
    priorities = np.array(sorted(expected.values(), reverse=True))
    outer = {q.edge for q in ranked if not q.joined}
    assert outer == {
        e for e in expected if session.lut[session.graph.u[e]] != session.lut[session.graph.v[e]]
    }
    found = [expected[q.edge] for q in ranked if q.edge in expected]
    assert found == sorted(found, reverse=True)
    for place, question in enumerate(ranked):
        if question.edge in expected:
            np.testing.assert_allclose(expected[question.edge], priorities[place], rtol=1e-5)


@pytest.fixture
def session():
    return ProofreadingSession(tree_source(3))


def test_an_answered_question_does_not_come_back(session):
    queue = UncertaintyQueue(session)
    seen = set()
    left, total = queue.progress()
    assert left == total == len(queue.ranked())
    for answer in (questions.accept, questions.reject) * 5:
        question = queue.next()
        assert question.edge not in seen
        seen.add(question.edge)
        answer(session, question.edge)
        assert question.edge not in {q.edge for q in queue.ranked()}
    left_now, total_now = queue.progress()
    assert left_now < left
    assert total_now == left_now + 10
    while session.undo():
        pass
    assert queue.progress() == (left, total)


def test_next_and_previous_walk_over_what_is_open(session):
    queue = UncertaintyQueue(session)
    order = [q.edge for q in queue.ranked(4)]
    walked = [queue.next().edge for _ in range(4)]
    assert walked == order
    assert queue.previous().edge == order[2]
    questions.reject(session, order[1])
    assert queue.previous().edge == order[0]
    assert queue.previous() is None
    assert queue.next().edge == order[2]


def test_what_was_postponed_comes_last(session):
    queue = UncertaintyQueue(session)
    n = len(queue.ranked())
    first = queue.next()
    questions.postpone(session, first.edge)
    ranked = queue.ranked()
    assert len(ranked) == n
    assert ranked[-1].edge == first.edge
    assert ranked[-1].postponed
    edges = [queue.next().edge for _ in range(n - 1)]
    assert first.edge not in edges
    assert len(set(edges)) == n - 1


def test_locked_segments_are_not_asked_about(session):
    queue = UncertaintyQueue(session)
    question = queue.next()
    session.lock([question.segments[0]])
    for other in queue.ranked():
        assert question.segments[0] not in other.segments


def test_one_kind_of_question_only(session):
    inside = UncertaintyQueue(session, kind="joined").ranked()
    between = UncertaintyQueue(session, kind="separate").ranked()
    assert inside
    assert between
    assert all(q.joined for q in inside)
    assert not any(q.joined for q in between)
    assert len(UncertaintyQueue(session).ranked()) == len(inside) + len(between)


def test_small_sides_can_be_left_out(session):
    ranked = UncertaintyQueue(session, min_size=300).ranked()
    assert ranked
    assert all(q.smaller_side >= 300 for q in ranked)


def test_it_follows_the_threshold(session):
    queue = UncertaintyQueue(session, band=0.1)
    session.set_threshold(0.8)
    ranked = queue.ranked()
    assert ranked
    assert all(0.7 <= q.join_score <= 0.9 for q in ranked)
    assert [q.edge for q in ranked] == [
        q.edge for q in UncertaintyQueue(session, band=0.1).ranked()
    ]


def test_nothing_to_ask():
    source = ProofreadingSource.from_arrays([1], [2], [0.5], [np.inf])
    queue = UncertaintyQueue(ProofreadingSession(source))
    assert queue.next() is None
    assert queue.previous() is None
    assert queue.progress() == (0, 0)
    assert queue.any(np.random.default_rng(0)) is None


def three_pairs() -> ProofreadingSession:
    """Three questions between segments, 0, 1 and 2 in this order."""
    source = ProofreadingSource.from_arrays(
        [1, 3, 5], [2, 4, 6], [0.5] * 3, [0.55, 0.6, 0.65], threshold=0.5,
        sizes=[0, 30, 30, 20, 20, 10, 10],
    )  # fmt: skip
    return ProofreadingSession(source)


@pytest.mark.parametrize("postponing", [False, True])
def test_at_the_end_open_questions_come_round_again(postponing):
    session = three_pairs()
    queue = UncertaintyQueue(session)
    asked = []
    for _ in range(9):
        question = queue.next()
        asked.append(question.edge)
        if postponing:
            questions.postpone(session, question.edge)
    assert asked == [0, 1, 2] * 3
    questions.accept(session, 0)
    assert [queue.next().edge for _ in range(4)] == [1, 2, 1, 2]


@pytest.mark.parametrize(
    "edit",
    [
        lambda session: questions.accept(session, 0),
        lambda session: questions.reject(session, 0),
        lambda session: session.merge([1, 2]),
        lambda session: session.lock([1]),
    ],
)
def test_what_was_undone_is_asked_by_a_queue_made_before_that(edit):
    session = three_pairs()
    edit(session)
    queue = UncertaintyQueue(session)
    left, _ = queue.progress()
    assert [q.edge for q in queue.ranked()] == [1, 2]
    questions.accept(session, 1)
    session.undo()
    assert not queue.is_stale  # it was made after what is in force
    session.undo()
    assert queue.is_stale
    assert [q.edge for q in queue.ranked()] == [0, 1, 2]
    assert not queue.is_stale
    assert queue.progress() == (left + 1, left + 1)
    assert queue.next().edge == 0
    session.redo()
    assert [q.edge for q in queue.ranked()] == [1, 2]


def test_a_branch_beside_the_edits_of_a_queue_makes_it_stale():
    session = three_pairs()
    questions.postpone(session, 1)
    questions.accept(session, 0)
    queue = UncertaintyQueue(session)
    session.undo()
    questions.postpone(session, 2)
    assert queue.is_stale
    assert queue.next().edge == 0


def test_a_queue_made_after_another_goes_on_where_that_was():
    session = three_pairs()
    first = UncertaintyQueue(session)
    assert [first.next().edge for _ in range(2)] == [0, 1]
    queue = UncertaintyQueue(session, after=first)
    assert queue.previous().edge == 0
    assert [queue.next().edge for _ in range(2)] == [1, 2]


def test_ends_that_were_confirmed_are_no_questions_answered(new_source):
    session = ProofreadingSession(new_source(shape=(6, 20, 20), per_section=14))
    before = UncertaintyQueue(session).progress()
    for end in ends_inside(session)[:3]:
        confirm_end(session, end.fragment)
    assert UncertaintyQueue(session).progress() == before
