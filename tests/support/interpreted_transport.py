"""Sinkhorn's kernel in Triton's interpreter, on a CPU; run as a script, since the interpreter is chosen at import.

Usage: TRITON_INTERPRET=1 python interpreted_transport.py INPUT.pt OUTPUT.pt
"""

import sys

import torch

from comfyui_aot.aot.transport.fused_kernel import launch

given, found = sys.argv[1:]
torch.save([launch(*case) for case in torch.load(given)], found)
