"""What lies beside compiled files: how apps load them, and how Play delivers them."""

from __future__ import annotations

from collections.abc import Sequence

from tfcompress.core.tables import table
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.manifest_file import sha256_of
from tfcompress.exporters.npu import CompiledFile


def build_file(pack: str) -> str:
    """Returns the build.gradle.kts of an AI pack."""
    return f"""plugins {{ id("com.android.ai-pack") }}

aiPack {{
    packName = "{pack}"
    dynamicDelivery {{ deliveryType = "on-demand" }}
}}
"""


def readme(
    artifact: Artifact, files: Sequence[CompiledFile], name: str, pack: str | None
) -> str:
    """Returns the README of the folder.

    Args:
        artifact: the file that was compiled.
        files: what was made of it.
        name: what the model is called.
        pack: the name of the AI pack; None without one.
    """
    rows = [
        (
            one.path.name,
            one.chip,
            f"{one.operators - len(one.left)} of {one.operators}",
            str(one.dispatches),
            ", ".join(dict.fromkeys(map(str, one.left))) or "-",
        )
        for one in files
    ]
    headings = ("file", "chip", "operators on the NPU", "in dispatches", "on the CPU")
    return f"""# {name}.tflite, compiled for NPUs

{table(headings, rows, names=2)}

Compiled from the file of SHA-256 {sha256_of(artifact.path)}.

Each file runs on its chip only, in LiteRT's `CompiledModel` with the vendor's runtime:

```kotlin
val options = CompiledModel.Options(Accelerator.NPU, Accelerator.CPU)
val model = CompiledModel.create("{files[0].path.name}", options, environment)
```

What was checked: {name}.tflite was run and compared with the model, and each compiled
file takes and gives tensors of the same shapes, types, scales and zero points. What was
not: the compiled files run nowhere but on their chips, and have not been run.
{_of_the_pack(name, pack) if pack else ""}"""


def _of_the_pack(name: str, pack: str) -> str:
    return f"""
## Play for On-device AI

`ai_pack` is the folder that Play's AI packs are made of: Play gives each phone the file
of its chip as `{name}.tflite`, and all others the plain one. Copy it into the app's
project, and then:

```kotlin
// settings.gradle.kts
include(":ai_pack:{pack}")

// build.gradle.kts of the app, in `android`
assetPacks.add(":ai_pack:{pack}")
bundle {{
    deviceTargetingConfig = file("../ai_pack/device_targeting_configuration.xml")
    deviceGroup {{
        enableSplit = true
        defaultGroup = "other"
    }}
}}
```
"""
