"""Makes the .onnx files beside it with PyTorch, which the tests do not need.

    pip install torch onnx onnxscript
    python tests/interop/onnx_files/make.py [name ...]

Each network is written by both exporters of PyTorch: `lenet.onnx` by the one that came
with TorchScript, `lenet_dynamo.onnx` by the one of today. Widths are small, so that a
file has a few kilobytes; weights and statistics are random.
"""

import sys
from pathlib import Path

import onnx
import torch
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).parent


class LeNet(nn.Module):
    """5x5 convolutions of 6 and 16 channels, and dense layers of 120, 84 and 10."""

    def __init__(self, widths=(6, 16), dense=(24, 20), image=28):
        super().__init__()
        self.conv1 = nn.Conv2d(1, widths[0], 5)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 5)
        size = ((image - 4) // 2 - 4) // 2
        self.fc1 = nn.Linear(widths[1] * size * size, dense[0])
        self.fc2 = nn.Linear(dense[0], dense[1])
        self.fc3 = nn.Linear(dense[1], 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = torch.flatten(x, 1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def vgg():
    def block(before, after):
        return [
            nn.Conv2d(before, after, 3, padding=1),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
        ]

    return nn.Sequential(
        *block(3, 6),
        *block(6, 8),
        nn.AdaptiveAvgPool2d((2, 2)),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(32, 16),
        nn.ReLU(),
        nn.Linear(16, 10),
    )


class Residual(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = None
        if stride > 1 or before != after:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """The stem and the blocks of torchvision's."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Residual(8, 8, 1))
        self.layer2 = nn.Sequential(Residual(8, 12, 2), Residual(12, 12, 1))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(12, 10)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(self.layer2(self.layer1(x))), 1))


class Inverted(nn.Module):
    def __init__(self, before, after, stride, expand=3):
        super().__init__()
        hidden = before * expand
        self.adds = stride == 1 and before == after
        self.conv = nn.Sequential(
            nn.Conv2d(before, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )

    def forward(self, x):
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU6(),
            Inverted(6, 6, 1),
            Inverted(6, 8, 2),
            Inverted(8, 8, 1),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 10))

    def forward(self, x):
        return self.classifier(self.features(x).mean([2, 3]))


class UNet(nn.Module):
    """One way up by a transposed convolution, one by bilinear resizing."""

    def __init__(self):
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU())
        self.down2 = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU())
        self.bottom = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.ReLU()
        )
        self.up2 = nn.ConvTranspose2d(8, 8, 2, 2)
        self.merge2 = nn.Sequential(nn.Conv2d(16, 6, 3, padding=1), nn.ReLU())
        self.up1 = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.merge1 = nn.Sequential(nn.Conv2d(12, 6, 3, padding=1), nn.ReLU())
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        x = self.bottom(F.max_pool2d(two, 2))
        x = self.merge2(torch.cat([self.up2(x), two], 1))
        return self.out(self.merge1(torch.cat([self.up1(x), one], 1)))


class Recurrent(nn.Module):
    """Two layers, the first in both directions; the last state decides."""

    def __init__(self, kind):
        super().__init__()
        self.first = kind(5, 6, batch_first=True, bidirectional=True)
        self.second = kind(12, 8, batch_first=True)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x, _ = self.first(x)
        x, _ = self.second(x)
        return self.fc(x[:, -1])


class Transformer(nn.Module):
    """Tokens, positions, two encoder layers of PyTorch and a mean over time."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.positions = nn.Parameter(0.1 * torch.randn(1, 12, 16))
        layer = nn.TransformerEncoderLayer(
            16, 2, 24, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 4)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.positions
        return self.head(self.norm(self.encoder(x)).mean(1))


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, 2, 1)
        self.squeeze = nn.Conv2d(12, 4, 1)
        self.excite = nn.Conv2d(4, 12, 1)
        self.linear_squeeze = nn.Linear(12, 4)
        self.linear_excite = nn.Linear(4, 12)
        self.grouped = nn.Conv2d(12, 12, 3, 1, 1, groups=3)
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        x = F.hardswish(self.stem(x))
        scale = F.adaptive_avg_pool2d(x, 1)
        x = x * F.hardsigmoid(self.excite(F.silu(self.squeeze(scale))))
        x = F.silu(self.grouped(x))
        scale = self.linear_excite(F.relu(self.linear_squeeze(x.mean((2, 3)))))
        x = x * torch.sigmoid(scale).view(-1, 12, 1, 1)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def depthwise():
    """Keyword spotting: uneven kernels and strides, a multiplier, an average."""
    return nn.Sequential(
        nn.Conv2d(1, 8, (6, 4), (2, 2), (2, 1)),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 1, 1, groups=8),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 1),
        nn.LeakyReLU(0.1),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.Conv2d(8, 8, 3, 2, 1, groups=8),
        nn.PReLU(8),
        nn.Flatten(),
        nn.Linear(8 * 3 * 2, 12),
    )


class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 4 * i) for i in range(3))
        self.convs = nn.ModuleList(
            nn.Conv2d(8 + 4 * i, 4, 3, padding=1, bias=False) for i in range(3)
        )
        self.transition = nn.Sequential(
            nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 10, 1), nn.AvgPool2d(2)
        )
        self.norm = nn.BatchNorm2d(10)
        self.classifier = nn.Linear(10, 10)

    def forward(self, x):
        features = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs):
            features.append(conv(F.relu(norm(torch.cat(features, 1)))))
        x = F.relu(self.norm(self.transition(torch.cat(features, 1))))
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class TwoInputs(nn.Module):
    """A picture and a row of numbers, and two outputs."""

    def __init__(self):
        super().__init__()
        self.left = nn.Linear(2 * 4 * 4, 12)
        self.right = nn.Linear(5, 6)
        self.norm = nn.BatchNorm1d(18)
        self.hidden = nn.Linear(18, 8)
        self.score = nn.Linear(8, 3)
        self.value = nn.Linear(8, 1)

    def forward(self, picture, numbers):
        left = torch.tanh(self.left(picture.flatten(1)))
        x = torch.cat([left, F.elu(self.right(numbers))], dim=1)
        x = F.softplus(self.hidden(self.norm(x)))
        return F.softmax(self.score(x), dim=-1), self.value(x)


def image(channels, size, width=None):
    return torch.randn(2, channels, size, width or size)


#: How each network is made, and what it is called on.
NETWORKS = {
    "lenet": (LeNet, lambda: (image(1, 28),)),
    "vgg": (vgg, lambda: (image(3, 15),)),
    "resnet": (ResNet, lambda: (image(3, 32),)),
    "mobilenet_v2": (MobileNetV2, lambda: (image(3, 32),)),
    "u_net": (UNet, lambda: (image(1, 16),)),
    "lstm": (lambda: Recurrent(nn.LSTM), lambda: (torch.randn(2, 7, 5),)),
    "gru": (lambda: Recurrent(nn.GRU), lambda: (torch.randn(2, 7, 5),)),
    "transformer": (Transformer, lambda: (torch.randint(0, 20, (2, 12)),)),
    "squeeze_excite": (SqueezeExcite, lambda: (image(3, 16),)),
    "depthwise": (depthwise, lambda: (image(1, 20, 12),)),
    "dense_net": (DenseNet, lambda: (image(3, 16),)),
    "two_inputs": (TwoInputs, lambda: (image(2, 4), torch.randn(2, 5))),
}


def trained_looking(network):
    """Gives all weights and statistics values as if the network had been trained."""
    for parameter in network.parameters():
        if parameter.dim() < 2:  # scales and biases, which all begin with one value
            nn.init.normal_(parameter, parameter.mean().item(), 0.2)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        if isinstance(module, nn.TransformerEncoderLayer):  # copies of one layer
            for parameter in module.parameters():
                parameter.data += 0.02 * torch.randn_like(parameter)
    return network.eval()


def plain(path):
    """Leaves out of a file where on a disk its source was, and other remarks."""
    model = onnx.load(path)
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(model, path)


def export(network, samples, path, dynamo, free=True):
    """Writes a network as .onnx; `free` is whether the size of a batch is left open."""
    names = [f"input_{i}" for i in range(len(samples))] if len(samples) > 1 else ["x"]
    options = {"input_names": names, "dynamo": dynamo}
    if dynamo:
        batch = torch.export.Dim("batch")
        if free:
            options["dynamic_shapes"] = tuple({0: batch} for _ in samples)
        options["external_data"] = False
    elif free:
        options["dynamic_axes"] = {name: {0: "batch"} for name in names}
    torch.onnx.export(network, samples, str(path), **options)
    plain(path)


def main(names):
    for name in names or NETWORKS:
        make, samples = NETWORKS[name]
        torch.manual_seed(0)
        network, samples = trained_looking(make()), samples()
        for dynamo in (False, True):
            path = HERE / f"{name}{'_dynamo' * dynamo}.onnx"
            export(network, samples, path, dynamo)
            print(f"{path.name}: {path.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
