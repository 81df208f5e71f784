"""What scripts/bench compares: the usual ways, strong peers, and the limit of the machine."""
