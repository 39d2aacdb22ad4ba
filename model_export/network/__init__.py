"""The event BERT in torch, its heads and losses, and the graph that serves."""
