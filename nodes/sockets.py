"""The socket types of the pack. Saved workflows hold their names, so these never change."""

from __future__ import annotations

from .comfy import io

AOTFrames = io.Custom("AOT_FRAMES")
AOTVLLM = io.Custom("AOT_VLLM")
AOTTokens = io.Custom("AOT_TOKENS")
AOTAnswerType = io.Custom("AOT_ANSWER")
AOTRelevance = io.Custom("AOT_RELEVANCE")
AOTServerType = io.Custom("AOT_SERVER")
