"""Random is a stream of its own per member; Replay goes where the record went."""

import pytest
import torch

from trimtab.controllers import Random, Replay
from trimtab.controllers.ablation import _splitmix
from trimtab.errors import KnobError
from trimtab.knobs import Panel

F64 = torch.float64
PANEL = Panel.of(["lr", "beta1"])


def _moves(reading, rule, members, sites=2, calls=4):
    position = torch.full((members, sites, 2), 0.5, dtype=F64)
    state, moves = rule.start(PANEL, members, sites), []
    for n in range(calls):
        move, state = rule.act(reading(PANEL, position, 1 + n), state)
        moves.append(move)
    return torch.stack(moves)


def test_splitmix_is_the_published_generator():
    """The hash of k times the golden gamma is SplitMix64's k-th output from seed 0, bit for bit."""
    gamma = 0x9E3779B97F4A7C15 - (1 << 64)
    outputs = _splitmix(torch.arange(3) * gamma)
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [value % (1 << 64) for value in outputs.tolist()] == known


def test_a_member_is_a_run_of_its_own(reading):
    """Member b of seed s is, bit for bit, a single run of seed s + b."""
    together = _moves(reading, Random(seed=7), members=3)
    for b in range(3):
        assert torch.equal(together[:, b : b + 1], _moves(reading, Random(seed=7 + b), members=1))


def test_members_sites_knobs_and_calls_differ(reading):
    """No two of the draws are the same."""
    moves = _moves(reading, Random(), members=5, sites=3, calls=20)
    assert len(moves.flatten().unique()) == moves.numel()


def test_draws_are_uniform(reading):
    """Moves fill [-reach, reach] evenly, and neighbours in every direction are uncorrelated."""
    moves = _moves(reading, Random(reach=0.5, seed=3), members=200, sites=5, calls=50)
    assert moves.abs().max().item() <= 0.5
    counts = torch.histc(moves, bins=20, min=-0.5, max=0.5)
    expected = moves.numel() / 20
    assert ((counts - expected) ** 2 / expected).sum().item() < 43.8  # chi-square, 19 degrees, p = 0.001
    for axis in range(4):
        last = moves.size(axis) - 1
        a, b = moves.narrow(axis, 0, last).flatten(), moves.narrow(axis, 1, last).flatten()
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1].item()) < 4.5 / len(a) ** 0.5


@pytest.mark.parametrize("as_table", [True, False])
def test_a_replay_arrives_at_the_recorded_places(reading, as_table):
    """Played back over the same readings, the positions are the recorded ones."""
    rng = torch.Generator().manual_seed(0)
    place, steps, record = torch.full((1, 1, 2), 0.5, dtype=F64), [1, 2, 4, 7, 10, 20, 30], []
    for step in steps:
        move = 2 * torch.rand(1, 1, 2, generator=rng, dtype=F64) - 1
        place = PANEL.turn(place, move, torch.tensor([step]))
        record.append((step, place[0, 0].tolist()))
    given = record
    if as_table:
        rows = [[p for s, p in record if s <= t][-1] for t in range(1, 31)]
        given = torch.tensor(rows, dtype=F64)
    rule = Replay.of(given)
    position, state = torch.full((2, 3, 2), 0.5, dtype=F64), rule.start(PANEL, 2, 3)
    for step, expected in record:
        seen = reading(PANEL, position, step)
        move, state = rule.act(seen, state)
        position = PANEL.turn(position, move, seen.signals.step)
        torch.testing.assert_close(position, torch.tensor(expected, dtype=F64).expand(2, 3, 2), rtol=0, atol=1e-12)
    again, _ = rule.act(reading(PANEL, position, 31), state)
    assert torch.equal(again, torch.zeros_like(again))


def test_a_replay_waits_for_its_first_place_and_takes_its_time(reading):
    """Before the first recorded step the move is zero; a far place is approached by whole moves."""
    rule, position = Replay.of([(5, [0.9, 0.5])]), torch.full((1, 1, 2), 0.1, dtype=F64)
    state = rule.start(PANEL, 1, 1)
    assert rule.act(reading(PANEL, position, 4), state)[0].tolist() == [[[0.0, 0.0]]]
    assert rule.act(reading(PANEL, position, 5), state)[0].tolist() == [[[1.0, 1.0]]]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Random(reach=2.0),
        lambda: Replay.of([]),
        lambda: Replay.of([(2, [0.5]), (1, [0.5])]),
        lambda: Replay.of([(1, [1.5])]),
        lambda: Replay.of([(1, [float("nan")])]),
        lambda: Replay.of([(1, [0.5])]).start(PANEL, 1, 1),
    ],
)
def test_what_cannot_be_played_is_refused(make):
    """A record that does not hold together, or not with the panel, is a KnobError."""
    with pytest.raises(KnobError):
        make()
