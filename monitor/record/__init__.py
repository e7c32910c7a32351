"""Who is told: metrics, watchers, and one line of log for each verdict."""
