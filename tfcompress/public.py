"""The public names: `import tfcompress` gives them all."""

# Out of the files themselves where one is named as what it holds: the reference would
# take the file for it.
from tfcompress.benchmarking.benchmark import Benchmark, benchmark
from tfcompress.channels.callback import PruneChannels
from tfcompress.channels.dependencies import (
    ChannelGroup,
    channel_groups,
)
from tfcompress.channels.shrink import shrink
from tfcompress.clustering.callback import ClusterWeights
from tfcompress.compression import (
    Budget,
    Candidate,
    Recipe,
    Result,
    Search,
)
from tfcompress.compression.compress import compress
from tfcompress.core.errors import (
    ArtifactError,
    CompressionError,
    CompressionWarning,
    ExportError,
    InvalidArgumentError,
    UnsupportedLayerError,
    VerificationError,
)
from tfcompress.core.keras_2 import (
    hard_sigmoid_of_keras_2 as _hard_sigmoid_of_keras_2,  # noqa: F401
)
from tfcompress.core.once_final import OnceFinal
from tfcompress.core.workers import is_chief
from tfcompress.diagnosis import (
    Diagnosis,
    Finding,
    TargetTable,
    doctor,
    doctor_all,
)
from tfcompress.distillation import (
    BoostedTrees,
    Distiller,
    HeadReport,
    SoftDecisionTree,
    TeacherEnsemble,
    TFLiteTeacher,
    born_again,
    cache_teacher,
    compress_predictions,
    distill_chain,
    distill_into_trees,
    initialize_from,
)
from tfcompress.distillation.deep_supervision import deep_supervision
from tfcompress.distribution import distribute
from tfcompress.exporters import Artifact, Runner
from tfcompress.exporters.export import export, load
from tfcompress.exporters.training import OnDeviceTraining
from tfcompress.finalization import finalize
from tfcompress.interop.onnx.convert import from_onnx
from tfcompress.layers import (
    Kernel,
    LayerRule,
    Matrix,
    Unknown,
    macs,
    register_layer_rule,
)
from tfcompress.layers.integer_form import Parts, StaysFloat
from tfcompress.layers.table import layer_table
from tfcompress.low_rank.factorize import factorize
from tfcompress.packing import (
    Packed,
    pack,
    unpack,
)
from tfcompress.pruning.callback import PruneWeights
from tfcompress.pruning.criteria import (
    BatchNormScale,
    Criterion,
    Grasp,
    Lamp,
    Magnitude,
    Movement,
    Random,
    Snip,
    Taylor,
)
from tfcompress.pruning.patterns import (
    Block,
    Channel,
    NOfM,
    Pattern,
    Unstructured,
)
from tfcompress.pruning.penalty import PenalizeWeights
from tfcompress.pruning.reconstruction import reconstruct
from tfcompress.pruning.sparse_training import SparseTraining
from tfcompress.quantization.calibration.calibrate import calibrate
from tfcompress.quantization.calibration.choose_bits import choose_bits
from tfcompress.quantization.calibration.mixed_precision import mixed_precision
from tfcompress.quantization.calibration.observers import (
    MinMaxObserver,
    MSEObserver,
    Observer,
    PercentileObserver,
)
from tfcompress.quantization.calibration.roundings import BRECQ, AdaRound
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.freeze import FreezeQuantization
from tfcompress.quantization.quantize import quantize_aware
from tfcompress.quantization.quantizers import (
    BinaryQuantizer,
    BlockwiseQuantizer,
    LearnedStepQuantizer,
    Quantizer,
    TernaryQuantizer,
    UniformQuantizer,
)
from tfcompress.quantization.scheme import QuantizationScheme
from tfcompress.quantization.wrapper import QuantizedLayer
from tfcompress.reporting import (
    CompressionLogger,
    FrontPoint,
    Report,
    Storage,
)
from tfcompress.reporting.report import report
from tfcompress.reporting.storage import storage
from tfcompress.schedules import (
    AlternatingSparsity,
    ConstantSparsity,
    CosineSparsity,
    MagnitudeThreshold,
    OneCycleSparsity,
    PolynomialSparsity,
    Schedule,
)
from tfcompress.seeding import SeedEachEpoch
from tfcompress.sequences import decoder_step, streaming
from tfcompress.trustworthiness import (
    TrustReport,
    TrustThresholds,
)
from tfcompress.trustworthiness.trust import trust
from tfcompress.verification.verify import Verification, verify

# From the top: the names of every day, in the order of the work.
__all__ = [  # noqa: RUF022
    "compress",
    "Budget",
    "Search",
    "Recipe",
    "PruneWeights",
    "PolynomialSparsity",
    "ClusterWeights",
    "quantize_aware",
    "calibrate",
    "Distiller",
    "shrink",
    "factorize",
    "finalize",
    "doctor",
    "export",
    "load",
    "verify",
    "benchmark",
    "trust",
    "report",
    # The others are in the public modules too: `tfcompress.pruning.Lamp`.
    "AdaRound",
    "AlternatingSparsity",
    "Artifact",
    "ArtifactError",
    "BRECQ",
    "BatchNormScale",
    "Benchmark",
    "BinaryQuantizer",
    "Block",
    "BlockwiseQuantizer",
    "BoostedTrees",
    "Candidate",
    "Channel",
    "ChannelGroup",
    "CompressionError",
    "CompressionLogger",
    "CompressionWarning",
    "ConstantSparsity",
    "CosineSparsity",
    "Criterion",
    "Diagnosis",
    "ExportError",
    "FakeQuantize",
    "Finding",
    "FreezeQuantization",
    "FrontPoint",
    "Grasp",
    "HeadReport",
    "InvalidArgumentError",
    "Kernel",
    "Lamp",
    "LayerRule",
    "LearnedStepQuantizer",
    "MSEObserver",
    "Magnitude",
    "MagnitudeThreshold",
    "Matrix",
    "MinMaxObserver",
    "Movement",
    "NOfM",
    "Observer",
    "OnDeviceTraining",
    "OnceFinal",
    "OneCycleSparsity",
    "Packed",
    "Parts",
    "Pattern",
    "PenalizeWeights",
    "PercentileObserver",
    "PruneChannels",
    "QuantizationScheme",
    "QuantizedLayer",
    "Quantizer",
    "Random",
    "Report",
    "Result",
    "Runner",
    "Schedule",
    "SeedEachEpoch",
    "Snip",
    "SoftDecisionTree",
    "SparseTraining",
    "StaysFloat",
    "Storage",
    "TFLiteTeacher",
    "TargetTable",
    "Taylor",
    "TeacherEnsemble",
    "TernaryQuantizer",
    "TrustReport",
    "TrustThresholds",
    "UniformQuantizer",
    "Unknown",
    "Unstructured",
    "UnsupportedLayerError",
    "Verification",
    "VerificationError",
    "born_again",
    "cache_teacher",
    "channel_groups",
    "choose_bits",
    "compress_predictions",
    "decoder_step",
    "deep_supervision",
    "distill_chain",
    "distill_into_trees",
    "distribute",
    "doctor_all",
    "from_onnx",
    "initialize_from",
    "is_chief",
    "layer_table",
    "macs",
    "mixed_precision",
    "pack",
    "reconstruct",
    "register_layer_rule",
    "storage",
    "streaming",
    "unpack",
]
