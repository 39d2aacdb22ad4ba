"""The event BERT in torch, its initial weights and losses, and the graph that serves it."""
