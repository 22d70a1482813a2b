"""AOT: token reduction for video LLMs by optimal transport. Pure PyTorch; knows nothing of ComfyUI.

One idea runs through the package: every kept token is a weighted mean of source tokens, so a
reduction is a row-stochastic matrix (:class:`~.tokens.token_map.TokenMap`), and stages compose by multiplication.
"""

__version__ = "0.1.0"
