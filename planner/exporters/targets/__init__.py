"""One module per consumer of plans; none of them knows another."""
