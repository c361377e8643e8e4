"""What every test may rely on: a quiet CPU, fixed seeds, two threads."""

import collections
import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["KERAS_BACKEND"] = "tensorflow"
# Two workers share two cores (-n 2): one thread each beats both fighting for two.
_THREADS = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", _THREADS)
os.environ.setdefault("TF_NUM_INTEROP_THREADS", _THREADS)
os.environ.setdefault("OMP_NUM_THREADS", _THREADS)
# Tests run a compiled step a few times; XLA would spend longer on making it fast.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=0",
)

import keras  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

SEED = 20260

# Python would look through all that TensorFlow has made, again and again, for a sixth
# of the time. What a module of tests leaves behind is collected once, at its end.
gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Leaves of each sweep the first few cases in the default run."""
    counts = collections.Counter()
    for item in items:
        sweep = item.get_closest_marker("sweep")
        if sweep is None or item.get_closest_marker("slow"):
            continue  # those that are slow anyway are none of the first
        key = item.nodeid.split("[")[0]
        counts[key] += 1
        if counts[key] > sweep.args[0]:
            item.add_marker("slow")


@pytest.fixture(autouse=True, scope="module")
def collected():
    yield
    gc.collect(1)


@pytest.fixture(autouse=True)
def same_start():
    """Gives each test the same seeds and puts global Keras settings back.

    `clear_session` is left alone: models made by session and module fixtures must
    live on, and a test that needs known layer names gives them.
    """
    keras.utils.set_random_seed(SEED)
    policy, image_format = keras.config.dtype_policy(), keras.config.image_data_format()
    yield
    keras.config.set_dtype_policy(policy)
    keras.config.set_image_data_format(image_format)


@pytest.fixture
def rng():
    """A NumPy generator with a fixed seed."""
    return np.random.default_rng(SEED)
