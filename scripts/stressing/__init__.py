"""What scripts/stress does to prognobench: how commands are started, harmed, and looked at."""
