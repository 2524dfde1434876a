from __future__ import annotations

import re
from collections import Counter

import pytest
import torch

from lib.bench import linear
from lib.bench.kernels import bench_of
from lib.experiments import cells_of, find
from lib.ops import backends, products

ARGUMENTS = ["achilles.transformer_with_convolution", "--profile", "quick", "--device", "cpu"]


def test_maps_are_those_that_a_step_calls() -> None:
    cells = cells_of(find(ARGUMENTS[0]), "quick")[:2]
    bench = bench_of(cells, None, "cpu")
    attention, heads, rows = bench.model.n_layers // 2, 1, bench.batch * bench.length
    found = linear.shapes_of(bench, torch.device("cpu"))
    # queries, keys and values of all positions in each; behind the last one, one position is left
    assert found[rows, 32, 128] == attention
    assert found[rows, 64, 32] == attention - 1 and found[bench.batch, 64, 32] == 1
    assert found[bench.batch, 32, bench.model.vocab_size] == heads
    assert sum(found.values()) == 4 * attention + heads
    assert isinstance(found, Counter)
    own = backends.call("linear", "reference")
    (cell,) = cells_of(find("achilles.phase_diagram_mamba1"), "quick")[:1]
    of_mamba = linear.shapes_of(bench_of([cell], None, "cpu"), torch.device("cpu"))
    mixer = cell.model.pattern[0]
    for size in (mixer.rank, mixer.d_state):  # the maps from u to dt, to B and to C
        assert any(n == size and k == mixer.d_inner for _, k, n in of_mamba), size
    assert backends.call("linear", "reference") is own


def test_times_of_each_map_the_fastest_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = backends.triton_missing("cpu") is None
    monkeypatch.setattr(linear, "FORWARD", linear.FORWARD[:1])
    monkeypatch.setattr(linear, "BACKWARD", linear.BACKWARD[:1])
    before = products.SIZES
    assert linear.main([*ARGUMENTS, "--runs", "2", "--top", "1"]) == 0
    assert before == products.SIZES
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith(f"{ARGUMENTS[0]}: 2 runs, 4 layers of 32 channels, batch 150")
    if not there:
        assert lines.pop(0).startswith("tensor_cores: Triton's kernels run on a GPU")
    assert lines[0] == "1200 x 32 -> 128, 2 a step, forward"
    back = lines.index("1200 x 32 -> 128, 2 a step, backward")
    for part in (lines[1:back], lines[back + 1 :]):
        found = [
            re.fullmatch(r" *([\d.]+) ms +[\d.]+ TFLOP/s +[\d.]+ TB/s  error ([\de-]+)  (.+)", line)
            for line in part
        ]
        assert len(found) == (2 if there else 1)
        times = [float(match[1]) for match in found if match is not None]
        assert len(times) == len(found) and times == sorted(times) and times[0] > 0
        assert all(float(match[2]) < linear.TOLERANCE for match in found if match is not None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["memory.architectures", "--profile", "matched"], "a cell is a MemoryCell, allowed: one"),
        ([*ARGUMENTS, "--runs", "0"], "runs is 0, allowed: 1 or more"),
    ],
)
def test_misuse_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert linear.main(arguments) == linear.USAGE_ERROR
    assert message in capsys.readouterr().err
