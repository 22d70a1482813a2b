"""Work on many machines with Ray Data: workers that hold a model, and parts of the result that each of them writes."""
