"""ComfyUI's cache under memory pressure: it knows our model for one, and lets a model of an earlier workflow go first.

It weighs an output by the CPU tensors in it, which it looks for in lists and tuples alone, and knows a model by an
attribute `patcher`. Frames and tokens are neither, so that to it they weigh what any unknown output weighs.
"""

import json
import subprocess

import pytest

from comfyui_aot.tests.comfyui.conftest import CHECKOUT, MAKE_TORCHVISION_IMPORT

SCRIPT = r"""
import json, sys, types
checkout = Path(sys.argv.pop())
sys.path.insert(0, "")
import comfy.options
comfy.options.enable_args_parsing()
import torch
from comfy_execution import caching
from execution import CacheEntry

spec = importlib.util.spec_from_file_location(
    "comfyui_aot", checkout / "__init__.py", submodule_search_locations=[str(checkout)]
)
package = sys.modules["comfyui_aot"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from comfyui_aot.nodes.comfy import model_patcher
from comfyui_aot.nodes.models import Loaded
from comfyui_aot.aot.video.frames import Frames

frames = Frames(torch.zeros(2, 64, 64, 3, dtype=torch.uint8), torch.tensor([0.0, 1.0], dtype=torch.float64), "clip")
outputs = {
    "image": torch.zeros(1, 256, 256, 3),
    "model": Loaded(None, model_patcher(torch.nn.Linear(2, 2), torch.device("cpu"), torch.device("cpu"))),
    "frames": frames,
}
cache = caching.RAMPressureCache(caching.CacheKeySetInputSignature)
cache.generation = 2
for age, (key, output) in enumerate(outputs.items()):
    cache.cache[key] = CacheEntry(ui=None, outputs=[[output]])
    cache.used_generation[key], cache.timestamps[key] = 1, float(age)
gone = []
while cache.cache:
    left = set(cache.cache)
    enough = types.SimpleNamespace(available=2)
    caching.psutil = types.SimpleNamespace(
        virtual_memory=lambda: enough if set(cache.cache) != left else types.SimpleNamespace(available=0)
    )
    cache.ram_release(1)
    gone += left - set(cache.cache)
print(json.dumps(gone))
"""


def test_under_pressure_an_earlier_workflows_model_goes_first_and_nothing_of_ours_is_in_the_way(installation):
    root, python = installation
    caching = (root / "comfy_execution" / "caching.py").read_text()
    if "is_model_patcher_output" not in caching:
        pytest.skip("this ComfyUI does not weigh outputs so")
    ran = subprocess.run(
        [python, "-c", MAKE_TORCHVISION_IMPORT + SCRIPT, "--cpu", str(CHECKOUT)],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert json.loads(ran.stdout.splitlines()[-1]) == ["model", "image", "frames"]
