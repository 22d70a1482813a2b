"""The socket types of the pack. Their names are in every saved workflow and never change."""

from __future__ import annotations

from .comfy import io

AOTFrames = io.Custom("AOT_FRAMES")
AOTVLLM = io.Custom("AOT_VLLM")
AOTTokens = io.Custom("AOT_TOKENS")
AOTAnswerType = io.Custom("AOT_ANSWER")
AOTServerType = io.Custom("AOT_SERVER")
