"""What a unit of compute buys: estimators over pools of samples, intervals over problems, and the figure."""
