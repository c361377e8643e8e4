"""Every loss against NumPy, and the promises all of them keep."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.distillation.test_distiller import compiled_loss, divergence, softmax
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.distillation import losses as L
from tfcompress.distillation.distiller import Distiller

B, C = 6, 5


@pytest.fixture
def pair(rng):
    return rng.normal(size=(2, B, C)).astype("float32") * 2


def value(loss, teacher, student, **kwargs):
    return float(loss.compute_loss(ops.array(teacher), ops.array(student), **kwargs))


def close(expected):
    return pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_soft_labels(pair):
    assert value(L.SoftLabels(4.0), *pair) == close(divergence(*pair, 4.0).mean())
    probabilities = [softmax(x) for x in pair]
    loss = L.SoftLabels(4.0, from_probabilities=True)
    assert value(loss, *probabilities) == close(divergence(*pair, 4.0).mean())


def standardized(x):
    return (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)


def test_standardized_logits(pair):
    t, s = (standardized(x) for x in pair)
    loss = L.SoftLabels(2.0, standardize=True)
    assert value(loss, *pair) == close(divergence(t, s, 2.0).mean())
    assert value(loss, pair[0], 0.1 * pair[0] + 5.0) == close(0.0)
    decoupled = L.DecoupledKnowledge(standardize=True)
    assert value(decoupled, *pair) == close(value(L.DecoupledKnowledge(), t, s))


def test_dist(pair):
    p, q = (softmax(x / 4.0) for x in pair)
    rows = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q)]
    columns = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T)]
    expected = 16.0 * (2.0 * np.mean(rows) + 3.0 * np.mean(columns))
    assert value(L.Dist(2.0, 3.0, 4.0), *pair) == close(expected)


def test_dist_counts_samples_as_often_as_their_weight(pair):
    t, s = pair
    weight = np.asarray([1, 2, 0, 1, 1, 1], "float32")
    twice = np.asarray([0, 1, 1, 3, 4, 5])
    weighted = value(L.Dist(), t, s, sample_weight=weight)
    assert weighted == close(value(L.Dist(), t[twice], s[twice]))


def test_dist_refuses_steps(rng):
    t, s = rng.normal(size=(2, 3, 4, C)).astype("float32")
    with pytest.raises(InvalidArgumentError, match=r"\(3, 4, 5\).*SoftLabels"):
        value(L.Dist(), t, s)


def test_masked_generation_sees_what_is_not_masked(rng):
    """With nothing of the student left, what is made is the same everywhere within."""
    t, s = rng.normal(size=(2, 4, 8, 8, 3)).astype("float32")
    loss = L.MaskedGeneration(masked=0.999999, seed=0)
    value(loss, t, s)
    nothing = loss.second(loss.first(ops.zeros((4, 8, 8, 3))))
    expected = np.square(t - keras.ops.convert_to_numpy(nothing)).mean()
    assert value(loss, t, s) == close(expected)
    seen = L.MaskedGeneration(masked=1e-6, seed=0)
    value(seen, t, s)
    made = seen.second(seen.first(seen.projection(ops.array(s))))
    expected = np.square(t - keras.ops.convert_to_numpy(made)).mean()
    assert value(seen, t, s) == close(expected)


def test_masked_generation_comes_back_from_its_configuration():
    loss = L.MaskedGeneration("conv", "other", masked=0.7, seed=5)
    again = L.MaskedGeneration.from_config(loss.get_config())
    assert (again.masked, again.seed) == (0.7, 5)
    assert (again.teacher_layer_name, again.student_layer_name) == ("conv", "other")


def test_masked_generation_masks_anew(rng):
    t, s = rng.normal(size=(2, 4, 8, 8, 3)).astype("float32")
    loss = L.MaskedGeneration(seed=0)
    assert value(loss, t, s) != value(loss, t, s)


def test_masked_generation_refuses_vectors(rng):
    t, s = rng.normal(size=(2, B, C)).astype("float32")
    with pytest.raises(InvalidArgumentError, match="take Hint"):
        value(L.MaskedGeneration(), t, s)


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("soft_labels", 1.0),
        ("similarity", 3000.0),
        ("relational_distance", 25.0),
        ("relational_angle", 50.0),
    ],
)
def test_without_weights_a_distiller_takes_those_of_the_papers(name, weight):
    teacher, student = conv_model(5, 1), conv_model(4, 2)
    losses = [make(name), keras.distillation.LogitsDistillation()]
    distiller = Distiller(teacher, student, losses)
    assert distiller.distillation_loss_weights == [weight, 1.0]
    assert Distiller(teacher, student, losses, [2, 3]).distillation_loss_weights == [
        2.0,
        3.0,
    ]


def test_a_loss_for_one_output_weighs_as_much():
    assert L.ForOutput("a", L.SimilarityPreserving()).default_weight == 3000.0


def test_hard_labels(pair):
    t, s = pair
    expected = -np.log(softmax(s)[np.arange(B), t.argmax(-1)]).mean()
    assert value(L.HardLabels(), t, s) == close(expected)


@pytest.mark.parametrize("form", ["sparse", "column", "one_hot", "none"])
def test_decoupled(pair, rng, form):
    t, s = pair
    y = t.argmax(-1) if form == "none" else rng.integers(0, C, B)
    values = []
    for i in range(B):
        p, q = (softmax(x[i] / 4.0) for x in (t, s))
        b, c = (np.asarray([r[y[i]], 1 - r[y[i]]]) for r in (p, q))
        rest = np.arange(C) != y[i]
        u, v = (r[rest] / r[rest].sum() for r in (p, q))
        binary, other = ((a * np.log(a / d)).sum() for a, d in ((b, c), (u, v)))
        values.append(16.0 * (2.0 * binary + 8.0 * other))
    labels = {"sparse": y, "column": y[:, None], "one_hot": np.eye(C)[y], "none": None}
    loss = L.DecoupledKnowledge(2.0, 8.0, 4.0)
    assert value(loss, t, s, labels=labels[form]) == close(np.mean(values))


def test_decoupled_is_soft_labels_where_the_paper_says(pair):
    """KD = TCKD + (1 - p(target)) NCKD (equation 5), with one sample."""
    t, s = (x[:1] for x in pair)
    beta = float(1 - softmax(t / 4.0)[0, 2])
    loss = L.DecoupledKnowledge(1.0, beta, 4.0)
    assert value(loss, t, s, labels=np.asarray([2])) == close(divergence(t, s, 4.0)[0])


def test_logits_mse(pair):
    t, s = pair
    assert value(L.LogitsMSE(), t, s) == close(((t - s) ** 2).mean())
    assert value(L.LogitsMSE(), t[:, 0], s[:, 0]) == close(((t - s)[:, 0] ** 2).mean())
    assert value(L.LogitsMSE(center=True), t, t + 7.0) == close(0.0)


def test_multi_label(pair):
    p, q = (1 / (1 + np.exp(-x / 2.0)) for x in pair)
    kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert value(L.MultiLabel(2.0), *pair) == close(4.0 * kl.mean())


def test_bounded_regression(pair, rng):
    t, s = pair
    y = rng.normal(size=(B, C))
    error, bound = (((x - y) ** 2).sum(-1) for x in (s, t))
    expected = np.where(error + 0.5 > bound, error, 0.0)
    assert 0 < (expected > 0).sum() < B
    loss = L.BoundedRegression(0.5)
    assert value(loss, t, s, labels=y) == close(expected.mean())
    with pytest.raises(InvalidArgumentError, match="needs labels"):
        value(loss, t, s)


def test_attention_transfer(rng):
    t, s = rng.normal(size=(B, 4, 4, 7)), rng.normal(size=(B, 2, 2, 3))
    maps = (t**2).mean(-1).reshape(B, 2, 2, 2, 2).mean((2, 4)), (s**2).mean(-1)
    q = [m.reshape(B, -1) for m in maps]
    q = [m / np.linalg.norm(m, axis=-1, keepdims=True) for m in q]
    expected = ((q[0] - q[1]) ** 2).sum(-1).mean()
    assert value(L.AttentionTransfer(), t, s) == close(expected)


def test_similarity(rng):
    t, s = rng.normal(size=(B, 3, 3, 2)), rng.normal(size=(B, 4))
    grams = [x.reshape(B, -1) @ x.reshape(B, -1).T for x in (t, s)]
    grams = [g / np.linalg.norm(g, axis=-1, keepdims=True) for g in grams]
    expected = ((grams[0] - grams[1]) ** 2).sum() / B**2
    assert value(L.SimilarityPreserving(), t, s) == close(expected)


def huber(x):
    return np.where(np.abs(x) <= 1, x**2 / 2, np.abs(x) - 0.5)


def test_relational_distance(rng):
    t, s = rng.normal(size=(B, 7)), rng.normal(size=(B, 4))
    d = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (t, s)]
    d = [x / x[x > 0].mean() for x in d]
    assert value(L.RelationalDistance(), t, s) == close(huber(d[0] - d[1]).mean())


def test_relational_angle(rng):
    t, s = rng.normal(size=(B, 7)), rng.normal(size=(B, 4))

    def cosine(x, i, j, k):
        a, b = x[i] - x[j], x[k] - x[j]
        if i == j or k == j:
            return 0.0
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    triples = np.ndindex(B, B, B)
    expected = np.mean([huber(cosine(t, *n) - cosine(s, *n)) for n in triples])
    assert value(L.RelationalAngle(), t, s) == close(expected)


def test_hint(rng):
    t, s = rng.normal(size=(B, 2, 2, 7)), rng.normal(size=(B, 4, 4, 3))
    loss = L.Hint()
    before = value(loss, t, s)
    kernel, bias = (w.numpy() for w in loss.weights)
    pooled = s.reshape(B, 2, 2, 2, 2, 3).mean((2, 4))
    assert before == close(((t - (pooled @ kernel + bias)) ** 2).mean())


def test_cosine(rng):
    t, s = rng.normal(size=(B, 7)), rng.normal(size=(B, 7))
    cosine = (t * s).sum(-1) / np.linalg.norm(t, axis=-1) / np.linalg.norm(s, axis=-1)
    loss = L.CosineDistance()
    assert value(loss, t, s) == close((1 - cosine).mean())
    assert loss.weights == []
    loss = L.CosineDistance()
    value(loss, t, s[:, :3])
    assert [tuple(w.shape) for w in loss.weights] == [(3, 7)]


def test_contrastive(rng):
    t, s = rng.normal(size=(B, 2, 3)), rng.normal(size=(B, 4))
    loss = L.Contrastive(dimensions=8, temperature=0.5)
    result = value(loss, t, s)
    f, g = (
        x.reshape(B, -1) @ p.kernel.numpy() + p.bias.numpy()
        for x, p in zip((t, s), loss.projections)
    )
    f, g = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (f, g))
    expected = -np.log(np.diag(softmax(g @ f.T / 0.5))).mean()
    assert result == close(expected)


def test_tokens_are_weighted_and_masked_one_by_one(rng):
    t, s = rng.normal(size=(2, 3, 4, C)).astype("float32")
    weight = np.asarray([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]], "float32")
    kl = divergence(t, s, 3.0)
    assert value(L.SoftLabels(), t, s, sample_weight=weight) == close(
        (kl * weight).sum() / 12
    )
    student = ops.array(s)
    student._keras_mask = ops.array(weight, "bool")
    masked = float(L.SoftLabels().compute_loss(ops.array(t), student))
    assert masked == close(kl[weight > 0].mean())


ALL = {
    "soft_labels": {},
    "hard_labels": {},
    "decoupled": {},
    "dist": {},
    "logits_mse": {},
    "multi_label": {},
    "bounded_regression": {},
    "attention_transfer": {"layers": "conv"},
    "similarity": {"layers": "conv"},
    "relational_distance": {"layers": "pool"},
    "relational_angle": {"layers": "pool"},
    "hint": {"layers": "conv"},
    "masked_generation": {
        "make": lambda: L.MaskedGeneration("conv", "conv", masked=0.1, seed=3),
    },
    "cosine": {"layers": "pool"},
    "contrastive": {"layers": "pool"},
    "deep_supervision": {"make": lambda: L.DeepSupervision("conv", 1.0, 3.0, "logits")},
}


def make(name):
    if "make" in ALL[name]:
        return ALL[name]["make"]()
    layers = ALL[name].get("layers")
    kwargs = {"teacher_layer_name": layers, "student_layer_name": layers}
    loss = L.LOSSES.get(name)
    return type(loss)(**kwargs) if layers else loss


def conv_model(filters, seed, stride=1):
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(filters, 3, stride, "same", name="conv")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))


def test_every_registered_loss_is_under_contract():
    assert set(ALL) == set(L.LOSSES.names()) - {"for_output"}


@pytest.mark.parametrize("name", ALL)
def test_contract(name, rng):
    """Weightless samples have no influence; configs round-trip; the loss falls."""
    x = rng.normal(size=(8, 4, 4, 1)).astype("float32")
    y = rng.integers(0, 3, 8)
    labels = np.eye(3)[y] if name == "bounded_regression" else y
    supervised = "mse" if name == "bounded_regression" else compiled_loss()
    weight = np.asarray([1, 2, 1, 0, 1, 0, 0, 1], "float32")
    spoiled = np.where(weight[:, None, None, None] > 0, x, 50.0)
    weights = []
    for data in (x, spoiled):
        loss = make(name)
        loss = type(loss).from_config(loss.get_config())
        keras.utils.set_random_seed(0)
        distiller = Distiller(conv_model(5, 1, 2), conv_model(4, 2), loss, [1.0], 0.1)
        distiller.compile(keras.optimizers.SGD(0.05), supervised, run_eagerly=True)
        if isinstance(loss, L.ProjectedLoss):
            for i, w in enumerate(loss.weights):
                w.assign(np.random.default_rng(i).normal(size=w.shape) * 0.3)
        start = distiller.student.get_weights()
        distiller.train_on_batch(data, labels, sample_weight=weight)
        weights.append([v.numpy() for v in distiller.trainable_variables])
        assert any(np.abs(a - b).max() > 1e-7 for a, b in zip(start, weights[-1]))
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    losses = []
    for _ in range(5):
        distiller.reset_metrics()  # before Keras 3.15 they are means over batches
        logs = distiller.train_on_batch(x, labels, return_dict=True)
        losses.append(float(logs["distillation_loss"]))
    assert losses[-1] < losses[0]


@pytest.mark.filterwarnings("ignore:.*structure of `inputs`:UserWarning")
@pytest.mark.parametrize(
    "name", sorted(set(ALL) - {"bounded_regression"})
)  # needs labels
def test_in_the_distiller_of_keras(name, rng):
    x = rng.normal(size=(8, 4, 4, 1)).astype("float32")
    y = rng.integers(0, 3, 8)
    results = []
    for cls in (Distiller, keras.distillation.Distiller):
        loss = make(name)
        distiller = cls(conv_model(5, 1), conv_model(4, 2), loss, [1.0])
        for i, w in enumerate(getattr(loss, "weights", [])):
            w.assign(np.random.default_rng(i).normal(size=w.shape))
        distiller.compile(keras.optimizers.SGD(0.05), compiled_loss(), run_eagerly=True)
        if name == "decoupled":  # without labels it follows the teacher
            y = np.argmax(distiller.teacher.predict(x, verbose=0), -1)
        logs = distiller.train_on_batch(x, y, return_dict=True)
        results.append(float(logs["distillation_loss"]))
        if isinstance(loss, L.ProjectedLoss):
            ours = {id(v) for v in loss.trainable_variables}
            assert ours <= {id(v) for v in distiller.trainable_variables}
    assert results[0] == close(results[1])


def test_projection_is_saved_and_not_pruned(rng, tmp_path):
    x = rng.normal(size=(8, 4, 4, 1)).astype("float32")
    y = rng.integers(0, 3, 8)
    losses = [make("hint"), make("contrastive"), "soft_labels"]
    distiller = Distiller(conv_model(5, 1), conv_model(4, 2), losses)
    distiller.compile("adam", compiled_loss())
    distiller.fit(x, y, verbose=0)
    assert distiller.layers == [distiller.student]
    count = len(distiller.student.trainable_variables)
    assert len(distiller.trainable_variables) == count + 2 + 4
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    for ours, theirs in zip(
        loaded.trainable_variables, distiller.trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    distiller.reset_metrics()
    again = [m.train_on_batch(x, y) for m in (loaded, distiller)]
    assert again[0] == pytest.approx(again[1], rel=1e-6)


class Subclassed(keras.Model):
    def __init__(self, width):
        super().__init__()
        self.hidden = keras.layers.Dense(width, name="hidden")
        self.head = keras.layers.Dense(3)

    def call(self, inputs):
        return self.head(self.hidden(inputs))


def test_projection_for_a_model_that_is_not_built_yet(rng, tmp_path):
    x = rng.normal(size=(16, 4)).astype("float32")
    teacher, student = Subclassed(5), Subclassed(4)
    teacher(x)
    losses = [L.Hint("hidden", "hidden"), "soft_labels"]
    distiller = Distiller(teacher, student, losses, student_loss_weight=0.0)
    distiller.compile(keras.optimizers.Adam(0.05))
    history = distiller.fit(x, epochs=15, verbose=0).history
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert len(distiller.trainable_variables) == 6
    assert int(distiller.optimizer.iterations) == 15


def test_losses_by_output(rng):
    def model(seed):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((4,))
        heads = {
            n: keras.layers.Dense(u, name=n)(inputs)
            for n, u in (("kind", 3), ("age", 1))
        }
        return keras.Model(inputs, heads), keras.Model(inputs, list(heads.values()))

    x = rng.normal(size=(8, 4)).astype("float32")
    y = {"kind": rng.integers(0, 3, 8), "age": rng.normal(size=(8, 1))}
    losses = {
        "kind": "soft_labels",
        "age": L.BoundedRegression(),
    }
    weights = {"age": 0.1, "kind": 2.0}
    compiled = {"kind": compiled_loss(), "age": "mse"}
    for form, targets in ((0, y), (1, list(y.values()))):
        teacher, student = model(1)[form], model(2)[form]
        distiller = Distiller(teacher, student, losses, weights)
        distiller.compile("sgd", compiled, run_eagerly=True)
        t, s = (m.predict(x, verbose=0) for m in (teacher, student))
        if form:
            t, s = (dict(zip(y, outputs)) for outputs in (t, s))
        error, bound = (((o["age"] - y["age"]) ** 2)[:, 0] for o in (s, t))
        expected = 2.0 * divergence(t["kind"], s["kind"], 3.0).mean()
        expected += 0.1 * np.where(error > bound, error, 0).mean()
        logs = distiller.train_on_batch(x, targets, return_dict=True)
        assert logs["distillation_loss"] == close(expected)
        again = Distiller.from_config(distiller.get_config())
        assert again.distillation_losses[1].output == "age"
    with pytest.raises(InvalidArgumentError, match=r"no such output.*'kind', 'age'"):
        Distiller(teacher, student, {"size": "logits_mse"})


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: Distiller(*models(1), "soft_labels"), "use MultiLabel for a binary"),
        (lambda: Distiller(*models(3), "soft_label"), "one of 'attention_transfer'"),
        (lambda: L.SoftLabels(temperature=0), "Wrong temperature. Received: 0"),
        (lambda: L.Contrastive(dimensions=-1), "Wrong dimensions"),
        (lambda: L.BoundedRegression(margin=-1), "Wrong margin"),
        (lambda: L.ForOutput("a", L.Hint("x", "y")), "compares layers"),
        (
            lambda: value(L.AttentionTransfer(), np.ones((2, 3)), np.ones((2, 3))),
            "compares places",
        ),
        (
            lambda: value(L.Hint(), np.ones((2, 3, 4)), np.ones((2, 3))),
            "after the pooling",
        ),
        (lambda: value(L.LogitsMSE(), np.ones((2, 3)), np.ones((2, 4))), "lengths"),
        (
            lambda: L.Hint().compute_loss(
                [ops.ones((2, 3))] * 2, [ops.ones((2, 3))] * 2
            ),
            "learns one projection",
        ),
    ],
)
def test_bad_input(make_it, message):
    def run():
        distiller = make_it()
        distiller.compile("sgd", "mse", run_eagerly=True)
        distiller.train_on_batch(np.ones((2, 4, 4, 1)), np.ones((2, 1)))

    with pytest.raises(InvalidArgumentError, match=message):
        run()


def models(classes):
    def model():
        inputs = keras.Input((4, 4, 1))
        x = keras.layers.Flatten()(inputs)
        return keras.Model(inputs, keras.layers.Dense(classes)(x))

    return model(), model()
