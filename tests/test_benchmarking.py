"""benchmark: plausible numbers, fair turns, clear refusals."""

import keras
import numpy as np
import pytest

from tfcompress.benchmarking import Benchmark, adb_command, benchmark
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters import KerasRunner, Runner, TensorInfo, export

L = keras.layers
X = np.zeros((4, 1), "float32")


class Sleeper(Runner):
    """Notes its calls and takes the time it is told to."""

    def __init__(self, name, log, milliseconds):
        info = (TensorInfo("x", (2, 1), "float32"),)
        super().__init__(info, info)
        self.name, self.log, self.milliseconds = name, log, milliseconds

    def bind(self, batch):
        import time

        def once():
            self.log.append(self.name)
            time.sleep(self.milliseconds / 1000)

        assert batch["x"].shape == (2, 1)
        return once


def test_artifacts_take_turns_and_ratios_hold():
    log: list[str] = []
    slow, fast = benchmark(
        [Sleeper("slow", log, 20), Sleeper("fast", log, 5)], X, runs=10
    )
    assert log == ["slow", "fast"] * 16  # first call, 5 to warm up, 10 timed
    assert 1.5 < slow.median / fast.median < 5
    assert 20 <= slow.p10 <= slow.median <= slow.p90
    assert (slow.runs, slow.batch_size, slow.name) == (10, 2, "slow")


def test_a_simulator_is_not_timed():
    log: list[str] = []
    phone = Sleeper("phone", log, 0)
    phone.simulates = "a phone"
    with pytest.raises(InvalidArgumentError, match="phone runs here in a simulator"):
        benchmark([Sleeper("here", log, 0), phone], X)
    assert not log


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": 0}, "Bad `runs`. Received: 0"),
        ({"threads": "all"}, "Bad `threads`. Received: 'all'"),
        ({"inputs": X[:1]}, "1 samples. Expected: at least 2"),
        ({"artifact": []}, "Nothing to measure"),
    ],
)
def test_bad_arguments(options, message):
    arguments = {"artifact": Sleeper("s", [], 0), "inputs": X, **options}
    with pytest.raises(InvalidArgumentError, match=message):
        benchmark(**arguments)


@pytest.mark.export
def test_real_artifacts(tmp_path):
    model = keras.Sequential([keras.Input((32,)), L.Dense(16)], name="small")
    phone = export(model, tmp_path / "m.tflite")
    server = export(model, tmp_path / "served", format="saved_model")
    x = np.zeros((1, 32))
    results = benchmark([phone, str(server.path), KerasRunner(model)], x, runs=5)
    assert [r.name for r in results] == ["m.tflite", "served/1", "small"]
    assert [r.threads for r in results] == [1, None, None]
    assert all(0 < r.p10 <= r.median <= r.p90 for r in results)
    assert "m.tflite: 0." in str(results[0])
    assert isinstance(benchmark(phone, x, threads=2, runs=1), Benchmark)


@pytest.mark.slow
@pytest.mark.export
def test_peak_memory_grows_with_the_weights(tmp_path):
    results = []
    for units in (64, 3000):
        model = keras.Sequential([keras.Input((units,)), L.Dense(units)])
        artifact = export(model, tmp_path / f"m{units}.tflite")
        results += [benchmark(artifact, np.zeros((1, units)), runs=1, memory=True)]
    small, large = (result.peak_memory for result in results)
    weights = 4 * 3000 * 3000
    assert small < weights / 2
    assert 0.9 * weights < large - small < 4 * weights
    assert str(results[1]).endswith(" MB")
    assert (
        benchmark(KerasRunner(model), np.zeros((1, 3000)), runs=1).peak_memory is None
    )


def test_the_command_line_for_a_phone():
    command = adb_command("models/my model.tflite", threads=4, delegate="gpu")
    assert command.startswith("adb push 'models/my model.tflite' '/data/local/tmp/my ")
    assert "--num_threads=4" in command
    assert "--use_gpu=true" in command
    with pytest.raises(InvalidArgumentError, match="`delegate`"):
        adb_command("m.tflite", delegate="tpu")
    with pytest.raises(InvalidArgumentError, match="ends in"):
        adb_command("m.onnx")
    with pytest.raises(InvalidArgumentError, match="`threads`"):
        adb_command("m.tflite", threads=0)
