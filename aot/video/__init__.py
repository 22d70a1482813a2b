"""Video files: which frames, their times, and the two decoders behind them."""
