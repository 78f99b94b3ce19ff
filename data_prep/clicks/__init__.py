"""Raw clicks -> sessions: addresses, clocks, cuts, dwell, bots, links."""
