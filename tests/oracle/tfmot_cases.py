"""TFMOT's own unit tests of schedules, masks and clustering as inputs and outputs.

Each row begins with the name of the test it is from; the files are `*_test.py` in
`tensorflow_model_optimization/python/core/{sparsity,clustering}/keras` of TFMOT's
repository. Left out are tests of what only wrappers have (stripping, their names, their
serialization) and of helpers that compute the same another way (`factorized_pool`,
`expand_tensor`, the linear solver).

`BY_DESIGN` holds the rows whose answer is meant to differ, each with the reason.
"""

# ------------------------------------------------- pruning_schedule_test.py

#: (test, arguments of begin_step, end_step, frequency, whether they are accepted).
STEPS = [
    ("testBeginStepGreaterThanEqualsZero", (-1, 1000, 10), False),
    ("testBeginStepGreaterThanEqualsZero", (-5, 1000, 10), False),
    ("testBeginStepGreaterThanEqualsZero", (0, 1000, 10), True),
    ("testBeginStepGreaterThanEqualsZero", (1, 1000, 10), True),
    ("testBeginStepGreaterThanEqualsZero", (100, 1000, 10), True),
    ("testEndStepGreaterThanEqualsZero", (10, -5, 10), False),
    ("testEndStepGreaterThanEqualsZero", (0, 1, 10), True),
    ("testEndStepGreaterThanEqualsZero", (0, 100, 10), True),
    ("testEndStepGreaterThanEqualsBeginStep", (10, 5, 10), False),
    ("testEndStepGreaterThanEqualsBeginStep", (10, 20, 10), True),
    ("testFrequencyIsPositive", (10, 1000, 0), False),
    ("testFrequencyIsPositive", (10, 1000, -1), False),
    ("testFrequencyIsPositive", (10, 1000, -5), False),
    ("testFrequencyIsPositive", (10, 1000, 1), True),
    ("testFrequencyIsPositive", (10, 1000, 10), True),
]
#: (test, a sparsity, whether it is accepted) for each sparsity of each schedule.
SPARSITIES = [
    ("testSparsityValueIsValid", -0.001, False),
    ("testSparsityValueIsValid", -1.0, False),
    ("testSparsityValueIsValid", -10.0, False),
    ("testSparsityValueIsValid", 1.0, False),
    ("testSparsityValueIsValid", 10.0, False),
    ("testSparsityValueIsValid", 0.0, True),
    ("testSparsityValueIsValid", 0.001, True),
    ("testSparsityValueIsValid", 0.5, True),
    ("testSparsityValueIsValid", 0.99, True),
]
#: (test, begin_step, end_step, frequency, step, whether masks are updated).
DUE = [
    *(
        ("testPrunesOnlyInBeginEndStepRange", 100, 200, 1, step, due)
        for step, due in [
            *((90, False), (99, False), (100, True), (110, True), (200, True)),
            *((201, False), (210, False)),
        ]
    ),
    *(
        ("testOnlyPrunesAtValidFrequencySteps", 100, 200, 10, step, due)
        for step, due in [(109, False), (111, False), (100, True), (110, True)]
    ),
]
#: (test, arguments of ConstantSparsity, step, whether it is due, sparsity).
#: `None` is what -1 means in TFMOT: no end.
CONSTANT = [
    ("testPrunesForeverIfEndStepIsNegativeOne", (0.5, 0, None, 10), 10_000, True, 0.5),
    (
        *("testPrunesForeverIfEndStepIsNegativeOne", (0.5, 0, None, 10)),
        *(100_000_000, True, 0.5),
    ),
    ("testPrunesWithConstantSparsity", (0.5, 100, 200, 10), 100, True, 0.5),
    ("testPrunesWithConstantSparsity", (0.5, 100, 200, 10), 110, True, 0.5),
    ("testPrunesWithConstantSparsity", (0.5, 100, 200, 10), 200, True, 0.5),
]
#: (test, arguments of PolynomialDecay, step, sparsity).
POLYNOMIAL = [
    ("testPolynomialDecay_PrunesCorrectly", (0.2, 0.8, 100, 110, 3, 2), 100, 0.2),
    ("testPolynomialDecay_PrunesCorrectly", (0.2, 0.8, 100, 110, 3, 2), 102, 0.4928),
    ("testPolynomialDecay_PrunesCorrectly", (0.2, 0.8, 100, 110, 3, 2), 105, 0.725),
    ("testPolynomialDecay_PrunesCorrectly", (0.2, 0.8, 100, 110, 3, 2), 110, 0.8),
]
#: (test, class, arguments) of schedules that are the same after a round trip.
SERIALIZED = [
    ("ConstantSparsityTest.testSerializeDeserialize", "constant", (0.7, 10, 20, 10)),
    (
        "PolynomialDecayTest.testSerializeDeserialize",
        *("polynomial", (0.2, 0.6, 10, 20, 5, 10)),
    ),
]

# ------------------------------------------------- pruning_impl_test.py

#: (test, weights, sparsity, mask).
MASKS = [
    ("testUpdateSingleMask", range(1, 101), 0.5, [0] * 50 + [1] * 50),
    (
        "testConstructsMaskAndThresholdCorrectly",
        *(range(1, 11), 0.200000018, [0] * 2 + [1] * 8),
    ),
]
#: (test, weights, sparsities one after the other, weights left after each).
MASKS_IN_A_ROW = [
    (
        *("testConditionalMaskUpdate", range(1, 101)),
        [0.0, 0.1, 0.1, 0.3, 0.3, 0.5, 0.5, 0.5, 0.5, 0.5],
        [100, 90, 90, 70, 70, 50, 50, 50, 50, 50],
    )
]
_HALF = [[0] * 4, [0] * 4, [1] * 4, [1] * 4]
#: (test, block, weights, mask at sparsity 0.5).
BLOCKS = [
    (
        *("testBlockMaskingAvg", (2, 2)),
        [[0.1, 0.1, 0.2, 0.2]] * 2 + [[0.3, 0.3, 0.4, 0.4]] * 2,
        _HALF,
    ),
    (
        # TFMOT takes the largest of a block here; the mean gives the same order.
        *("testBlockMaskingMax", (2, 2)),
        [
            *([0.1, 0.0, 0.2, 0.0], [0.0, -0.1, 0.0, -0.2]),
            *([0.3, 0.0, 0.4, 0.0], [0.0, -0.3, 0.0, -0.4]),
        ],
        _HALF,
    ),
    (
        "testBlockMaskingWithHigherDimensionsRaisesError",
        (2, 2),
        [[[0.1] * 4] * 4],
        None,
    ),
]

# ------------------------------------------------- pruning_utils_test.py

#: (test, rows of weights, m, n that are kept, mask; None if that is not possible).
#: TFMOT's rows are what a dot product runs over: a column of a Dense kernel.
N_OF_M = [
    ("testGenerateMxNMask", [[1, 2, 3, 4]], 4, 2, [[0, 0, 1, 1]]),
    ("testGenerateMxNMask", [[1, 2, 3, 4, 5, 6]], 6, 3, [[0, 0, 0, 1, 1, 1]]),
    ("testGenerateMxNMask", [[1, 2], [3, 4]], 2, 1, [[0, 1], [0, 1]]),
    ("testGenerateMxNMask", [[1, 2]], 6, 1, None),
]
#: (test, rows of weights, whether of each four two are zero).
IS_2_OF_4 = [
    ("testIsPruned2x4Test", [[1, 2, 3, 4]], False),
    ("testIsPruned2x4Test", [[1, 2, 0, 4], [0, 0, 1, 2]], False),
    ("testIsPruned2x4Test", [[1, 2, 3, 4, 5, 6]], False),
    ("testIsPruned2x4Test", [[1, 2, 0, 0]], True),
    ("testIsPruned2x4Test", [[1, 2, 0, 0], [0, 0, 0, 1], [0, 2, 1, 0]], True),
    ("testIsPruned2x4Test", [[0, 0, 0, 0]], True),
]

# ------------------------------------------------- clustering_centroids_test.py

#: (test, name of a start, whether it is known).
STARTS = [
    ("testExistingInitsAreSupported", "linear", True),
    ("testExistingInitsAreSupported", "density", True),
    ("testExistingInitsAreSupported", "kmeans++", True),
    ("testNonExistingInitIsNotSupported", "DEADBEEF", False),
    ("testThrowsValueErrorForNonExistingInit", "DEADBEEF", False),
]
_UNEVEN = [0, 1, 2, 3, 3.1, 3.2, 3.3, 3.4, 3.5]
_EVEN = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
#: (test, start, weights, clusters, TFMOT's values), see BY_DESIGN.
CODEBOOKS = [
    (
        *("testClusterCentroids", "density", _UNEVEN, 5),
        [0.11137931, 2.0534482, 3.145862, 3.3886206, 3.51],
    ),
    (
        *("testClusterCentroids", "density", _UNEVEN, 3),
        [0.11137931, 3.145862, 3.51],
    ),
    ("testClusterCentroids", "density", _EVEN, 3, [0.3010345, 5.2775865, 9.01]),
    ("testKmeanPlusPlusValues", "kmeans++", _UNEVEN, 5, [3.1, 0.0, 2.0, 1.0, 3.4]),
    ("testKmeanPlusPlusValues", "kmeans++", _UNEVEN, 3, [3.1, 0.0, 2.0]),
    ("testKmeanPlusPlusValues", "kmeans++", _EVEN, 3, [6.0, 1.0, 8.0]),
]

# ------------------------------------------------- clustering_registry_test.py

_FEW = [[1, 1, 1, 1], [1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0]]
_MORE = [[1, 1, 1, 1], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0]]
_ONES = [[1, 1, 1, 1]] * 4
_ROWS = [[0, 0, 0], [1, 1, 1], [0, 0, 0]]
_ZEROS = [[0, 0, 0]] * 3
#: (test, "sum" or "mean", indices of values, gradient of each value where that of
#: every weight is 1).
GRADIENTS = [
    ("testDenseWeightsCAGrad", "mean", _FEW, [1, 1]),
    ("testDenseWeightsCAGrad", "sum", _FEW, [8, 8]),
    ("testDenseWeightsCAGrad", "mean", _MORE, [1, 1]),
    ("testDenseWeightsCAGrad", "mean", _ONES, [0, 1]),
    ("testDenseWeightsCAGrad", "sum", _ONES, [0, 16]),
    ("testConvolutionalClusteringAlgorithmGrad", "mean", _ROWS, [1, 1]),
    ("testConvolutionalClusteringAlgorithmGrad", "sum", _ROWS, [6, 3]),
    ("testConvolutionalClusteringAlgorithmGrad", "mean", _ZEROS, [1, 0]),
    ("testConvolutionalClusteringAlgorithmGrad", "sum", _ZEROS, [9, 0]),
]
#: (test, values, indices, weights).
LOOKUPS = [
    (
        *("testClusteringAlgorithmPullIndices", [-1, 1]),
        *([[0, 0, 1], [1, 1, 1]], [[-1, -1, 1], [1, 1, 1]]),
    ),
    (
        *("testClusteringAlgorithmPullIndices", [-1, 0, 1]),
        *([[1, 1, 1], [1, 1, 1]], [[0, 0, 0], [0, 0, 0]]),
    ),
    (
        *("testClusteringAlgorithmPullIndices", [-1, 1]),
        *([0, 0, 0, 0, 1], [-1, -1, -1, -1, 1]),
    ),
    (
        *("testClusteringAlgorithmPullIndices", [0, 1, 2, 3]),
        *([0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 0, 1, 2, 3]),
    ),
    (
        *("testConvolutionalWeightsCA", [0, 3]),
        *([[[[0, 0, 0], [1, 1, 1], [0, 0, 0]]]], [[[[0, 0, 0], [3, 3, 3], [0, 0, 0]]]]),
    ),
    (
        *("testConvolutionalWeightsCA", [0, 3, 5]),
        *([[[[0, 1, 2], [1, 1, 1], [2, 1, 0]]]], [[[[0, 3, 5], [3, 3, 3], [5, 3, 0]]]]),
    ),
]
#: (test, layer, whether its weights can be clustered or there are none).
LAYERS = [
    ("testSupportsKerasClusterableLayer", "Dense", True),
    ("testSupportsKerasClusterableLayerAlias", "Conv2D", True),
    ("testSupportsKerasNonClusterableLayer", "Dropout", True),
    ("testDoesNotSupportKerasUnsupportedLayer", "ConvLSTM2D", False),
    ("testSupportsKerasRNNLayers", "LSTM", True),
    ("testSupportsKerasRNNLayers", "GRU", True),
    ("testSupportsKerasRNNLayers", "SimpleRNN", True),
    ("testDoesNotSupportCustomLayer", "Own", False),
    (
        "testSupportsCustomLayerInheritedFromClusterableLayerNoWeights",
        "OwnReshape",
        True,
    ),
]

# ------------------------------------------------- cluster_wrapper_test.py

#: (test, number of clusters, whether it is accepted).
NUMBERS = [
    ("testCanBeInitializedWithClusterableLayer", 13, True),
    ("testCannotBeInitializedWithNonIntegerNumberOfClusters", "13", False),
    ("testCannotBeInitializedWithFloatNumberOfClusters", 13.4, False),
    ("testCannotBeInitializedWithNumberOfClustersLessThanTwo", 0, False),
    ("testCannotBeInitializedWithNumberOfClustersLessThanTwo", 1, False),
    ("testCannotBeInitializedWithNumberOfClustersLessThanTwo", -32, False),
    (
        "testCannotBeInitializedWithSparsityPreservationAndNumberOfClustersLessThanThree",
        *(0, False),
    ),
    (
        "testCannotBeInitializedWithSparsityPreservationAndNumberOfClustersLessThanThree",
        *(-32, False),
    ),
]
#: (test, number of clusters, start): no more values than that.
AT_MOST = [
    ("testValuesAreClusteredAfterStripping", number, start)
    for number in range(2, 16, 4)
    for start in ("linear", "density", "kmeans++")
]
#: (test, values in units of the weights' mean and spread, the value that is nearest).
NEAREST = [
    ("testClusterReassociation", [(1, 0), (1, 2)], 0),
    ("testClusterReassociation", [(1, -2), (1, 0)], 1),
]

# ------------------------------------------------- where the answer differs

#: (test, what it asks, TFMOT's answer, ours, why).
BY_DESIGN = [
    (
        *("testEndStepGreaterThanEqualsZero", ("steps", (0, 0, 10)), True, False),
        "a schedule without a step prunes nothing, or at once: it is a mistake",
    ),
    (
        *(
            "testEndStepGreaterThanEqualsBeginStep",
            ("steps", (10, 10, 10)),
            True,
            False,
        ),
        "as above",
    ),
    (
        "testBlockMaskingWithHigherDimensionsRaisesError",
        *(("block", (3, 3, 8, 8)), False, True),
        "kernels of convolutions have blocks too: of their input and output channels",
    ),
    (
        *("testIsPruned2x4Test", ("2 of 4", (0, 3)), True, False),
        "a kernel without weights is no kernel, and has no pattern",
    ),
    (
        *("testExistingInitsAreSupported", ("start", "random"), True, False),
        "what is found must depend on the weights alone; k-means++ draws with a seed",
    ),
    (
        "testDoesNotSupportCustomLayerInheritedFromClusterableLayer",
        *(("layer", "OwnDense"), False, True),
        "rules are looked up along the class's bases, so subclasses inherit them",
    ),
    (
        "testCannotBeInitializedWithSparsityPreservationAndNumberOfClustersLessThanThree",
        *(("number", 2), False, True),
        "zeros always stay and are none of the values that are counted",
    ),
    (
        *("testClusterCentroids", ("codebooks", "density"), "start", "k-means"),
        "TFMOT keeps the values of the start; ours are moved by k-means until none "
        "moves, and from this start the error is at most TFMOT's (rows CODEBOOKS)",
    ),
    (
        *("testKmeanPlusPlusValues", ("codebooks", "kmeans++"), "start", "k-means"),
        "as above; the draw is another one, too, and k-means ends in a local optimum: "
        "on the first row's nine weights the error is 0.055, of TFMOT's values 0.040",
    ),
    (
        *("testCDFValues", ("quantile", None), "linear", "exact"),
        "TFMOT samples the distribution at points; ours takes the quantiles themselves",
    ),
]
