"""Several processes that train one model: gradients and running means of all; errors come through."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from cxr_assistant.training.team import Team, run_team


def learn(team: Team, folder: str) -> None:
    """What each member does: its own gradient and running mean, then those of all."""
    taught, idle, norm = nn.Linear(2, 1, bias=False), nn.Linear(2, 1), nn.BatchNorm1d(2)
    taught.weight.grad = torch.full((1, 2), 1.0 + 2.0 * team.rank)
    norm.running_mean.fill_(4.0 * team.rank)  # type: ignore[union-attr]
    team.average_gradients([*taught.parameters(), *idle.parameters()])
    team.average_buffers(norm)
    told = {
        "gradient": taught.weight.grad.tolist(),
        "mean": norm.running_mean.tolist(),  # type: ignore[union-attr]
        "share": team.share_of(32),
        "leads": team.leads,
    }
    Path(folder, f"{team.rank}.json").write_text(json.dumps(told), "utf-8")


def fail(team: Team) -> None:
    raise ValueError(f"no more room for member {team.rank}")


def test_two_members_learn_from_both_shares(tmp_path: Path) -> None:
    run_team(2, learn, str(tmp_path))
    told = [json.loads((tmp_path / f"{rank}.json").read_text("utf-8")) for rank in range(2)]
    assert [member["gradient"] for member in told] == [[[2.0, 2.0]]] * 2
    assert [member["mean"] for member in told] == [[2.0, 2.0]] * 2
    assert [(member["share"], member["leads"]) for member in told] == [(16, True), (16, False)]


def test_an_error_of_a_member_is_raised() -> None:
    with pytest.raises(Exception, match="no more room for member"):
        run_team(2, fail)
